"""Group normalisation over single frames or whole clips, plain and adaptive.

Statistics of a frame never cross time, so they are causal; those of a clip are not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.layers.frames import clip_to_frames, frames_to_clip


def fitting_groups(channels: int, num_groups: int = 32) -> int:
    """The largest number of groups up to ``num_groups`` that divides ``channels``.

    Example:
        >>> fitting_groups(128), fitting_groups(48), fitting_groups(40)
        (32, 24, 20)
    """
    return max(groups for groups in range(1, min(num_groups, channels) + 1) if channels % groups == 0)


class ClipGroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He, arXiv:1803.08494) of (B, C, T, H, W), its statistics over the whole clip.

    Args:
        channels: C.
        num_groups: Groups of channels; the largest divisor of C up to it is taken.
        eps: Added to the variance.
        affine: Whether to learn a scale and a shift per channel.

    Attributes:
        pooled_axes: The axes that a statistic is taken over.

    Example:
        >>> import torch
        >>> x = torch.cat([torch.zeros(1, 32, 1, 2, 2), torch.ones(1, 32, 1, 2, 2)], dim=2)
        >>> ClipGroupNorm(32)(x)[0, 0, :, 0, 0].round().tolist()
        [-1.0, 1.0]
    """

    pooled_axes = (2, 3, 4)

    def __init__(self, channels: int, *, num_groups: int = 32, eps: float = 1e-5, affine: bool = True):
        super().__init__(fitting_groups(channels, num_groups), channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        # the operator itself: torch.nn.functional refuses a group of a single value, whose normalised value is 0
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class FrameGroupNorm(ClipGroupNorm):
    """Group normalisation of each frame of (B, C, T, H, W) by itself; arguments as :class:`ClipGroupNorm`'s.

    Example:
        >>> import torch
        >>> FrameGroupNorm(64)(torch.randn(2, 64, 5, 8, 8)).shape
        torch.Size([2, 64, 5, 8, 8])
    """

    pooled_axes = (3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return frames_to_clip(super().forward(clip_to_frames(x)), samples=len(x))


class AdaptiveGroupNorm(nn.Module):
    """Normalisation whose scale and shift are linear in the codes at each position.

    ``norm(x) * (1 + gamma(codes)) + beta(codes)``, as in the MAGVIT-v2 decoder.

    Args:
        channels: C of the features.
        condition_channels: d of the codes.
        norm: Makes the normalisation, ``norm(channels, affine=False)``.

    Attributes:
        per_position: Whether the codes are to be on the features' grid.

    Example:
        >>> import torch
        >>> norm = AdaptiveGroupNorm(64, condition_channels=18)
        >>> norm(torch.randn(1, 64, 2, 4, 4), torch.ones(1, 18, 2, 4, 4)).shape
        torch.Size([1, 64, 2, 4, 4])
    """

    per_position = True

    def __init__(self, channels: int, *, condition_channels: int, norm: Callable[..., nn.Module] = FrameGroupNorm):
        super().__init__()
        self.norm = norm(channels, affine=False)
        self.gamma = nn.Linear(condition_channels, channels)
        self.beta = nn.Linear(condition_channels, channels)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """(B, C, T, H, W) features and (B, d, T, H, W) codes of the same grid -> (B, C, T, H, W)."""
        scale, shift = self._linear(self.gamma, codes, plus=1.0), self._linear(self.beta, codes)
        return torch.addcmul(shift, self.norm(x), scale)

    @staticmethod
    def _linear(layer: nn.Linear, codes: Tensor, plus: float = 0.0) -> Tensor:
        """The layer at every position, and a number added to it; channels_last_3d in memory."""
        return F.linear(codes.movedim(1, -1), layer.weight, layer.bias + plus).movedim(-1, 1)


class PooledAdaptiveGroupNorm(AdaptiveGroupNorm):
    """Normalisation whose scale and shift are linear in statistics of all codes (Open-MAGVIT2).

    ``norm(x) * gamma(std(codes)) + beta(mean(codes))``, pooled over what ``norm`` pools over;
    ``std = sqrt(unbiased variance + 1e-6)``, and a single position has no variance. The codes are
    the decoder's own, whatever the features' grid. Arguments as :class:`AdaptiveGroupNorm`'s.

    Example:
        >>> import torch
        >>> norm = PooledAdaptiveGroupNorm(64, condition_channels=18, norm=ClipGroupNorm)
        >>> norm(torch.randn(1, 64, 5, 8, 8), torch.ones(1, 18, 3, 4, 4)).shape
        torch.Size([1, 64, 5, 8, 8])
    """

    per_position = False

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """(B, C, T, H, W) features and (B, d, t, h, w) codes -> (B, C, T, H, W)."""
        axes = self.norm.pooled_axes
        mean = codes.mean(axes, keepdim=True)
        positions = codes[0, 0].numel() // mean[0, 0].numel()
        variance = (codes - mean).square().sum(axes, keepdim=True) / max(positions - 1, 1)
        return (self.norm(x) * self._linear(self.gamma, (variance + 1e-6).sqrt()) + self._linear(self.beta, mean))


NORMS = {"frame": FrameGroupNorm, "clip": ClipGroupNorm}
ADAPTIVE_NORMS = {"position": AdaptiveGroupNorm, "pooled": PooledAdaptiveGroupNorm}

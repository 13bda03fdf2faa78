"""Group normalisation over positions, frames (both causal) or clips (not causal), plain and adaptive."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def num_groups_for(channels: int, num_groups: int = 32) -> int:
    """The largest number of groups up to ``num_groups`` that divides ``channels``."""
    return max(groups for groups in range(1, min(num_groups, channels) + 1) if channels % groups == 0)


class ClipGroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He, arXiv:1803.08494) of (B, C, T, H, W) with statistics over the whole clip.

    Args:
        channels: C.
        num_groups: Largest number of groups; the largest divisor of C up to it is used.
        eps: Added to the variance.
        affine: Whether to learn a scale and a shift per channel.

    Attributes:
        pooled_axes: Axes of (B, C, T, H, W) over which statistics are computed, besides the channels of a group.

    Example:
        >>> import torch
        >>> x = torch.cat([torch.zeros(1, 32, 1, 2, 2), torch.ones(1, 32, 1, 2, 2)], dim=2)
        >>> ClipGroupNorm(32)(x)[0, 0, :, 0, 0].round().tolist()
        [-1.0, 1.0]
    """

    pooled_axes = (2, 3, 4)

    def __init__(self, channels: int, *, num_groups: int = 32, eps: float = 1e-5, affine: bool = True):
        super().__init__(num_groups_for(channels, num_groups), channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        # torch.group_norm also accepts groups of a single value, unlike F.group_norm
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class FrameGroupNorm(ClipGroupNorm):
    """Group normalisation of (B, C, T, H, W) with statistics per frame; arguments as :class:`ClipGroupNorm`.

    Example:
        >>> import torch
        >>> FrameGroupNorm(64)(torch.randn(2, 64, 5, 8, 8)).shape
        torch.Size([2, 64, 5, 8, 8])
    """

    pooled_axes = (3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] == 1:  # reshaping a single frame would lose the channels_last strides
            return super().forward(x.select(2, 0)).unsqueeze(2)
        frames = super().forward(x.movedim(2, 1).flatten(0, 1))  # (B * T, C, H, W)
        return frames.unflatten(0, (x.shape[0], x.shape[2])).movedim(1, 2)


class PositionGroupNorm(ClipGroupNorm):
    """Group normalisation of (B, C, T, H, W) with statistics at each position; arguments as :class:`ClipGroupNorm`.

    With one group it is layer normalisation of the channels (Ba et al., arXiv:1607.06450). Statistics over a frame
    differ between training crops and larger frames; those of a position do not.

    Example:
        >>> import torch
        >>> PositionGroupNorm(4, num_groups=2)(torch.tensor([1.0, 3, 5, 9]).reshape(1, 4, 1, 1, 1)).flatten().round()
        tensor([-1.,  1., -1.,  1.], grad_fn=<RoundBackward0>)
    """

    pooled_axes = ()

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)  # contiguous in channels_last_3d
        if self.num_groups == 1:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps).movedim(-1, 1)
        groups = x.unflatten(-1, (self.num_groups, -1))
        x = F.layer_norm(groups, groups.shape[-1:], eps=self.eps).flatten(-2)
        return (x if self.weight is None else torch.addcmul(self.bias, x, self.weight)).movedim(-1, 1)


class AdaptiveGroupNorm(nn.Module):
    """``norm(x) * (1 + gamma(codes)) + beta(codes)`` at each position, gamma and beta linear (MAGVIT-v2 decoder).

    Args:
        channels: C of the features.
        condition_channels: d of the codes.
        norm: Factory of the plain norm, called as ``norm(channels, affine=False)``.

    Attributes:
        per_position: Whether the codes must have the grid (T, H, W) of the features.

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
        codes = codes.contiguous(memory_format=torch.channels_last_3d)  # at most one copy, stored for both layers
        scale, shift = self._linear(self.gamma, codes, bias_offset=1.0), self._linear(self.beta, codes)
        return torch.addcmul(shift, self.norm(x), scale)

    @staticmethod
    def _linear(layer: nn.Linear, codes: Tensor, bias_offset: float = 0.0) -> Tensor:
        """``layer(codes) + bias_offset`` at every position, in channels_last_3d."""
        return F.linear(codes.movedim(1, -1), layer.weight, layer.bias + bias_offset).movedim(-1, 1)


class PooledAdaptiveGroupNorm(AdaptiveGroupNorm):
    """``norm(x) * gamma(std(codes)) + beta(mean(codes))``, gamma and beta linear (Open-MAGVIT2).

    Mean and ``std = sqrt(unbiased variance + 1e-6)`` are over the axes that ``norm`` pools; a single position has
    variance 0. The codes may have their own (h, w), with ClipGroupNorm also t. Arguments: :class:`AdaptiveGroupNorm`.

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
        num_positions = math.prod(codes.shape[axis] for axis in axes)  # a stream's chunk may have no frames
        variance = (codes - mean).square().sum(axes, keepdim=True) / max(num_positions - 1, 1)
        return self.norm(x) * self._linear(self.gamma, (variance + 1e-6).sqrt()) + self._linear(self.beta, mean)


NORMS = {"frame": FrameGroupNorm, "position": PositionGroupNorm, "clip": ClipGroupNorm}
ADAPTIVE_NORMS = {"position": AdaptiveGroupNorm, "pooled": PooledAdaptiveGroupNorm}

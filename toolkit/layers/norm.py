"""Group normalisation of single frames, plain and adaptive; no statistic crosses time, so it is causal."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn


def fitting_groups(channels: int, num_groups: int = 32) -> int:
    """The largest number of groups up to ``num_groups`` that divides ``channels``.

    Example:
        >>> fitting_groups(128), fitting_groups(48), fitting_groups(40)
        (32, 24, 20)
    """
    return max(groups for groups in range(1, num_groups + 1) if channels % groups == 0)


class FrameGroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He, arXiv:1803.08494) of each frame of (B, C, T, H, W) by itself.

    Args:
        channels: C.
        num_groups: Groups of channels; the largest divisor of C up to it is taken.
        eps: Added to the variance.
        affine: Whether to learn a scale and a shift per channel.

    Example:
        >>> import torch
        >>> FrameGroupNorm(64)(torch.randn(2, 64, 5, 8, 8)).shape
        torch.Size([2, 64, 5, 8, 8])
    """

    def __init__(self, channels: int, *, num_groups: int = 32, eps: float = 1e-5, affine: bool = True):
        super().__init__(fitting_groups(channels, num_groups), channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        # A view in channels_last_3d, where the channels lie innermost.
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        return rearrange(super().forward(frames), "(b t) c h w -> b c t h w", t=x.shape[2])


class AdaptiveGroupNorm(nn.Module):
    """Frame normalisation whose scale and shift are linear in the codes at each position.

    ``norm(x) * (1 + gamma(codes)) + beta(codes)``, as in the MAGVIT-v2 decoder.

    Args:
        channels: C of the features.
        condition_channels: d of the codes.
        num_groups: As of :class:`FrameGroupNorm`.
        eps: Added to the variance.

    Example:
        >>> import torch
        >>> norm = AdaptiveGroupNorm(64, condition_channels=18)
        >>> norm(torch.randn(1, 64, 2, 4, 4), torch.ones(1, 18, 2, 4, 4)).shape
        torch.Size([1, 64, 2, 4, 4])
    """

    def __init__(self, channels: int, *, condition_channels: int, num_groups: int = 32, eps: float = 1e-5):
        super().__init__()
        self.norm = FrameGroupNorm(channels, num_groups=num_groups, eps=eps, affine=False)
        self.gamma = nn.Linear(condition_channels, channels)
        self.beta = nn.Linear(condition_channels, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, T, H, W) features and (B, d, T, H, W) codes of the same grid -> (B, C, T, H, W)."""
        codes = rearrange(condition, "b d t h w -> b t h w d")
        gamma = rearrange(self.gamma(codes), "b t h w c -> b c t h w")
        beta = rearrange(self.beta(codes), "b t h w c -> b c t h w")
        return self.norm(x) * (1 + gamma) + beta

"""Self-attention over the positions of a frame."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from toolkit.layers.causal_conv import CausalConv3d
from toolkit.layers.norm import FrameGroupNorm


class FrameAttention(nn.Module):
    """Single-head dot-product attention within each frame, pre-norm and residual (VQGAN, arXiv:2012.09841).

    Args:
        channels: C, in and out.
        norm: Factory of the norm, called as ``norm(channels)``.

    Example:
        >>> import torch
        >>> FrameAttention(32)(torch.zeros(1, 32, 2, 4, 4)).shape
        torch.Size([1, 32, 2, 4, 4])
    """

    def __init__(self, channels: int, *, norm: Callable[[int], nn.Module] = FrameGroupNorm):
        super().__init__()
        self.norm = norm(channels)
        self.query, self.key, self.value, self.out = (
            CausalConv3d(channels, channels, kernel_size=(1, 1, 1)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        h, w = x.shape[3:]
        normed = self.norm(x)
        query, key, value = (rearrange(layer(normed), "b c t h w -> b t (h w) c")
                             for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)  # softmax(q k^T / sqrt(C)) v, per frame
        return x + self.out(rearrange(mixed, "b t (h w) c -> b c t h w", h=h, w=w))

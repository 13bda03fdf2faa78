"""The residual block of MAGVIT-v2, and running a block without storing what is inside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toolkit.layers.causal_conv import CausalConv3d
from toolkit.layers.norm import FrameGroupNorm


def run_block(block: nn.Module, *inputs: Tensor, activation_checkpointing: bool) -> Tensor:
    """``block(*inputs)``; with ``activation_checkpointing`` the backward pass computes it again.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> run_block(nn.Identity(), x, activation_checkpointing=True).sum().backward()
        >>> x.grad.tolist()
        [[1.0, 1.0]]
    """
    if activation_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class ResBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input (arXiv:2310.05737, fig. 8).

    The convolutions have no bias; a 1x1x1 convolution makes the shortcut where the width changes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        temporal_kernel: k_t of the two convolutions; 1 gives the 2-D block.
        num_groups: Groups of the two norms.

    Example:
        >>> ResBlock(32, 64, temporal_kernel=3)(torch.zeros(1, 32, 2, 4, 4)).shape
        torch.Size([1, 64, 2, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, *, temporal_kernel: int, num_groups: int = 32):
        super().__init__()
        kernel_size = (temporal_kernel, 3, 3)
        self.norm1 = FrameGroupNorm(in_channels, num_groups=num_groups)
        self.conv1 = CausalConv3d(in_channels, out_channels, kernel_size=kernel_size, bias=False)
        self.norm2 = FrameGroupNorm(out_channels, num_groups=num_groups)
        self.conv2 = CausalConv3d(out_channels, out_channels, kernel_size=kernel_size, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = CausalConv3d(in_channels, out_channels, kernel_size=(1, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T, H, W)."""
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return self.shortcut(x) + residual

"""The residual block of MAGVIT-v2, and recomputation of activations in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toolkit.layers.causal_conv import CausalConv3d, StreamCache
from toolkit.layers.norm import FrameGroupNorm


def run_block(block: nn.Module, *inputs: Tensor | StreamCache | None, activation_checkpointing: bool | int,
              level: int = 0) -> Tensor:
    """``block(*inputs)``; with activation checkpointing its inner activations are recomputed in the backward pass.

    Args:
        activation_checkpointing: True: all levels. False: none. A number n: the n finest levels (1 is not True).
        level: The block's level; 0 is the finest.

    Example:
        >>> run_block(nn.Tanh(), torch.zeros(1, requires_grad=True), activation_checkpointing=2, level=1)
        tensor([0.], grad_fn=<TanhBackward0>)
    """
    selected = activation_checkpointing is True or level < activation_checkpointing
    in_stream = any(isinstance(value, dict) for value in inputs)  # recomputation would advance the cache twice
    if selected and torch.is_grad_enabled() and not in_stream:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def norm_silu_conv(norm: nn.Module, conv: CausalConv3d, x: Tensor, cache: StreamCache | None = None) -> Tensor:
    """``conv(silu(norm(x)), cache)``. Without a cache, the backward pass recomputes norm and SiLU from ``x``.

    The norm runs twice, so it must not keep running statistics or draw random numbers. Recomputation stops at the
    convolution's input, so nothing is convolved twice. Under torch.compile the compiler chooses what to recompute.

    Example:
        >>> conv = CausalConv3d(8, 4, kernel_size=(3, 3, 3))
        >>> norm_silu_conv(FrameGroupNorm(8), conv, torch.zeros(1, 8, 2, 4, 4)).shape
        torch.Size([1, 4, 2, 4, 4])
    """
    def activate_and_convolve(x: Tensor) -> Tensor:
        return conv(F.silu(norm(x)), cache)

    if cache is None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return checkpoint(activate_and_convolve, x, use_reentrant=False, preserve_rng_state=False)
    return activate_and_convolve(x)


class ResBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input (arXiv:2310.05737, fig. 8).

    The shortcut is a 1x1x1 convolution where the number of channels changes.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        temporal_kernel: k_t of the two convolutions; 1 gives the 2-D block.
        bias: Whether the convolutions have a bias: False in MAGVIT-v2, True in VQGAN.
        norm: Factory of the norms, called as ``norm(channels)``.
        padding: Padding of the convolutions, "zeros" or "replicate".

    Example:
        >>> ResBlock(32, 64, temporal_kernel=3)(torch.zeros(1, 32, 2, 4, 4)).shape
        torch.Size([1, 64, 2, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, *, temporal_kernel: int, bias: bool = False,
                 norm: Callable[[int], nn.Module] = FrameGroupNorm, padding: str = "zeros"):
        super().__init__()
        kernel = {"kernel_size": (temporal_kernel, 3, 3), "bias": bias, "padding": padding}
        self.norm1 = norm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, **kernel)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, **kernel)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = CausalConv3d(in_channels, out_channels, kernel_size=(1, 1, 1), bias=bias)

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T, H, W); with ``cache``, a chunk of a stream."""
        residual = norm_silu_conv(self.norm1, self.conv1, x, cache)
        residual = norm_silu_conv(self.norm2, self.conv2, residual, cache)
        return self.shortcut(x) + residual

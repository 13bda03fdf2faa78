"""The discriminator of MAGVIT: one logit for a whole clip or image."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Discriminator
from toolkit.registry import DISCRIMINATORS


def blur_pool(x: Tensor, *, time: bool, padding: str = "reflect") -> Tensor:
    """(B, C, T, H, W) -> (B, C, T', ceil(H / 2), ceil(W / 2)): (1, 2, 1) / 4 and stride 2 (Zhang, arXiv:1904.11486).

    Time is halved if ``time``. ``padding``: "reflect", or "same" for TensorFlow's SAME with zeros: one after an even
    side, one on both sides of an odd one. Every axis to halve has at least two entries.
    """
    for dim in (2, 3, 4) if time else (3, 4):
        x = _blur(x, dim, padding)
    return x


def _blur(x: Tensor, dim: int, padding: str) -> Tensor:
    length, count = x.shape[dim], -(-x.shape[dim] // 2)
    edges = x.narrow(dim, 1, 1), x.narrow(dim, length - 2, 1)
    if padding == "same":
        edges = torch.zeros_like(edges[0]).narrow(dim, 0, length % 2), torch.zeros_like(edges[1])
    padded = torch.cat([edges[0], x, edges[1]], dim)
    before, here, after = (padded[(slice(None),) * dim + (slice(start, start + 2 * count - 1, 2),)]
                           for start in range(3))
    return ((before + after) * 0.25).add(here, alpha=0.5)


class _Block(nn.Module):
    """Two convolutions around a blur pool, plus a blurred shortcut, scaled by 1 / sqrt(2)."""

    def __init__(self, in_channels: int, out_channels: int, temporal_kernel: int, blur_padding: str):
        super().__init__()
        kernel, padding = (temporal_kernel, 3, 3), (temporal_kernel // 2, 1, 1)
        self.blur = partial(blur_pool, time=temporal_kernel > 1, padding=blur_padding)
        self.conv1 = nn.Conv3d(in_channels, in_channels, kernel, padding=padding)
        self.conv2 = nn.Conv3d(in_channels, out_channels, kernel, padding=padding)
        self.shortcut = nn.Conv3d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.leaky_relu(self.conv1(x), 0.2, inplace=True)
        residual = F.leaky_relu(self.conv2(self.blur(residual)), 0.2, inplace=True)
        return (residual + self.shortcut(self.blur(x))).div_(math.sqrt(2))


@DISCRIMINATORS.register_module()
class StyleGANDiscriminator(Discriminator):
    """StyleGAN's residual discriminator inflated to clips (MAGVIT, arXiv:2212.05199; StyleGAN, 1812.04948).

    Args:
        in_channels: C.
        filters: Width of the first convolution.
        channel_multipliers: Width in ``filters`` after each block; each block halves H, W and, with
            temporal_kernel > 1, T.
        size: (T, H, W) of the pixels; it fixes the first linear layer.
        temporal_kernel: 3 for clips; with 1 only the linear layers join the frames.
        blur_padding: "reflect" (O2-MAGVIT2) or "same" (praxis); see :func:`blur_pool`.

    Raises:
        ValueError: If ``size`` cannot be halved once per block, or ``blur_padding`` is unknown.

    Example:
        >>> import torch
        >>> net = StyleGANDiscriminator(filters=8, channel_multipliers=(2, 4), size=(5, 16, 16))
        >>> net(torch.zeros(2, 3, 5, 16, 16)).shape
        torch.Size([2, 1])
    """

    def __init__(self, *, in_channels: int = 3, filters: int = 128,
                 channel_multipliers: tuple[int, ...] = (2, 4, 4, 4, 4),
                 size: tuple[int, int, int] = (17, 128, 128), temporal_kernel: int = 3,
                 blur_padding: str = "reflect"):
        super().__init__()
        if blur_padding not in ("reflect", "same"):
            raise ValueError(f"StyleGANDiscriminator takes blur_padding 'reflect' or 'same', got {blur_padding!r}.")
        self.in_channels, self.size = in_channels, tuple(size)
        grid = self._halved(self.size, len(channel_multipliers), temporal_kernel)
        widths = [filters, *(filters * m for m in channel_multipliers)]
        kernel, padding = (temporal_kernel, 3, 3), (temporal_kernel // 2, 1, 1)
        self.conv_in = nn.Conv3d(in_channels, filters, kernel, padding=padding)
        self.blocks = nn.ModuleList(_Block(widths[i], widths[i + 1], temporal_kernel, blur_padding)
                                    for i in range(len(channel_multipliers)))
        self.conv_out = nn.Conv3d(widths[-1], widths[-1], kernel, padding=padding)
        self.linear1 = nn.Linear(widths[-1] * math.prod(grid), widths[-1])
        self.linear2 = nn.Linear(widths[-1], 1)

    @staticmethod
    def _halved(size: tuple[int, int, int], times: int, temporal_kernel: int) -> tuple[int, int, int]:
        """The grid after ``times`` blur pools, each of which needs two entries a side."""
        t, h, w = size
        for done in range(times):
            if min(h, w) < 2 or (temporal_kernel > 1 and t < 2):
                raise ValueError(f"StyleGANDiscriminator can halve {size} only {done} times, got {times} "
                                 "blocks; shorten channel_multipliers, enlarge size, or set temporal_kernel=1 "
                                 "for images.")
            t, h, w = ((t + 1) // 2 if temporal_kernel > 1 else t), (h + 1) // 2, (w + 1) // 2
        return t, h, w

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, T, H, W) of exactly ``size``, in [-1, 1] -> raw logits (B, 1)."""
        if tuple(pixels.shape[2:]) != self.size:
            raise ValueError(f"StyleGANDiscriminator takes pixels of size (T, H, W) = {self.size}, got "
                             f"{tuple(pixels.shape[2:])}; set its size to the training clips'.")
        pixels = pixels.contiguous(memory_format=torch.channels_last_3d)
        x = F.leaky_relu(self.conv_in(pixels), 0.2, inplace=True)
        for block in self.blocks:
            x = block(x)
        x = F.leaky_relu(self.conv_out(x), 0.2, inplace=True)
        x = F.leaky_relu(self.linear1(x.flatten(1)), 0.2)
        return self.linear2(x)

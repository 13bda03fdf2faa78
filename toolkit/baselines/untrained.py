"""Untrained codecs of the same grid and bits: what any trained tokenizer must beat."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def share_bits(bits: int) -> tuple[int, int, int]:
    """Bits shared out over R, G, B as evenly as can be; what is left goes to G, then R.

    Example:
        >>> share_bits(18), share_bits(10), share_bits(11)
        ((6, 6, 6), (3, 4, 3), (4, 4, 3))
    """
    each, left = divmod(bits, 3)
    return each + (left == 2), each + (left >= 1), each


def quantize_uniform(x: Tensor, bits: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Colours (B, 3, t, h, w) in [0, 1] -> rounded to 2^bits levels per channel, and indices (B, t, h, w, 1).

    A channel of no bits is 0.5 throughout. R has the most significant digits.

    Example:
        >>> rounded, indices = quantize_uniform(torch.tensor([0.4, 0.4, 1.0]).reshape(1, 3, 1, 1, 1), (1, 2, 1))
        >>> [round(v, 3) for v in rounded.flatten().tolist()], indices.item()
        ([0.0, 0.333, 1.0], 3)
    """
    top = torch.tensor([2**b - 1 for b in bits], dtype=x.dtype, device=x.device).view(1, 3, 1, 1, 1)
    digits = (x * top).round()
    place = torch.tensor([2**(bits[1] + bits[2]), 2**bits[2], 1], device=x.device).view(1, 3, 1, 1, 1)
    indices = (digits.long() * place).sum(1).unsqueeze(-1)
    return torch.where(top == 0, 0.5, digits / top.clamp(min=1)), indices


class Thumbnail:
    """Each cell's mean colour, the bits shared out over R, G and B, then bicubic interpolation.

    Args:
        stride: (s_t, s_h, s_w) of the tokenizer it stands beside; time is averaged over groups of
            s_t frames, the first frame alone.
        bits: Per position.

    Example:
        >>> reconstruction, indices = Thumbnail(stride=(4, 8, 8), bits=18)(torch.zeros(1, 3, 5, 16, 16))
        >>> reconstruction.shape, indices.shape
        (torch.Size([1, 3, 5, 16, 16]), torch.Size([1, 2, 2, 2, 1]))
    """

    num_codebooks = 1

    def __init__(self, *, stride: tuple[int, int, int], bits: int):
        self.stride, self.bits, self.codebook_size = tuple(stride), share_bits(bits), 2**bits
        self.digits = tuple(2**share for share in self.bits)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) in [-1, 1] -> (reconstruction of that shape, indices (B, t, h, w, 1))."""
        cells, indices = self.encode(pixels)
        return self.decode(cells, tuple(pixels.shape[2:])), indices

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) in [-1, 1] -> rounded colours (B, 3, t, h, w) in [0, 1], indices (B, t, h, w, 1)."""
        _, s_h, s_w = self.stride
        frames = torch.cat([group.mean(2, keepdim=True) for group in pixels.split(self._groups(pixels.shape[2]), 2)], 2)
        padded = F.pad(frames, (0, -frames.shape[4] % s_w, 0, -frames.shape[3] % s_h, 0, 0), mode="replicate")
        return quantize_uniform((F.avg_pool3d(padded, (1, s_h, s_w)) + 1) / 2, self.bits)

    def decode(self, cells: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Colours (B, 3, t, h, w) in [0, 1] -> pixels (B, 3, T, H, W) of the size (T, H, W)."""
        frames, height, width = size
        grown = F.interpolate(rearrange(cells, "b c t h w -> (b t) c h w"), scale_factor=self.stride[1:],
                              mode="bicubic", align_corners=False)
        grown = rearrange(grown, "(b t) c h w -> b c t h w", b=len(cells)).clamp(0, 1) * 2 - 1
        lengths = torch.tensor(self._groups(frames), device=grown.device)
        return grown.repeat_interleave(lengths, dim=2)[..., :height, :width]

    def _groups(self, frames: int) -> list[int]:
        """How many frames each cell's time has: the first alone."""
        whole, rest = divmod(frames - 1, self.stride[0])
        return [1, *[self.stride[0]] * whole, *[rest] * (rest > 0)]


class MeanColour:
    """Each frame's mean colour, in 8 bits per channel.

    Example:
        >>> reconstruction, indices = MeanColour()(torch.ones(1, 3, 5, 16, 16))
        >>> reconstruction.min().item(), indices.shape
        (1.0, torch.Size([1, 5, 1, 1, 1]))
    """

    codebook_size, num_codebooks, digits = 2**24, 1, (2**8, 2**8, 2**8)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) in [-1, 1] -> (reconstruction of that shape, indices (B, T, 1, 1, 1))."""
        colour, indices = quantize_uniform((pixels.mean((3, 4), keepdim=True) + 1) / 2, (8, 8, 8))
        return (colour * 2 - 1).expand_as(pixels), indices


MOST_BITS = 48  # 16 per channel; more would change nothing


def bits_per_cell(codebook_size: int, num_codebooks: int, *, positions: Sequence[int], grid: Sequence[int]) -> int:
    """Whole bits that the indices spend on a cell of the latent grid, up to 48.

    Args:
        codebook_size: K.
        num_codebooks: G, indices per position.
        positions: Of the indices, which need not be the grid.
        grid: (t, h, w).

    Example:
        >>> bits_per_cell(2**18, 1, positions=(5, 8, 8), grid=(5, 8, 8))
        18
        >>> bits_per_cell(1000, 2, positions=(80,), grid=(1, 8, 8))   # 80 / 64 positions per cell
        24
    """
    return min(math.floor(num_codebooks * math.log2(codebook_size) * math.prod(positions) / math.prod(grid)), MOST_BITS)

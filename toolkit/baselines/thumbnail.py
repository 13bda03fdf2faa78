"""Mean colours of large cells: what any trained tokenizer must beat."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Baseline
from toolkit.registry import BASELINES

Size = tuple[int, int, int]
MOST_BITS = 48  # 16 per channel; more would change nothing


def quantize_uniform(x: Tensor, bits: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Colours (B, 3, t, h, w) in [0, 1] -> rounded to 2^bits levels per channel, and indices (B, t, h, w, 1).

    A channel of no bits is 0.5 throughout. R has the most significant digits.
    """
    top = torch.tensor([2**b - 1 for b in bits], device=x.device).view(1, 3, 1, 1, 1)
    place = torch.tensor([2**(bits[1] + bits[2]), 2**bits[2], 1], device=x.device).view(1, 3, 1, 1, 1)
    digits = (x * top).round()
    indices = (digits.long() * place).sum(1).unsqueeze(-1)
    return torch.where(top == 0, 0.5, digits / top.clamp(min=1)), indices


def share_bits(bits: int) -> tuple[int, int, int]:
    """Bits of R, G, B, as even as can be; the rest goes to G, then R."""
    each, rest = divmod(bits, 3)
    return each + (rest == 2), each + (rest >= 1), each


def image_grid(grid: Size, size: Size) -> Size:
    """The latent grid if its cells are about square, else one of square cells that has about as many per frame.

    So the grid (1, 1, N) of a 1-D tokenizer becomes rows and columns.
    """
    t, h, w = grid
    _, height, width = size
    if 1 / 2 <= (height / h) / (width / w) <= 2:
        return grid
    rows = min(max(1, round(math.sqrt(h * w * height / width))), height)
    return t, rows, min(max(1, round(h * w / rows)), width)


@BASELINES.register_module()
class MeanColour(Baseline):
    """Each frame's mean colour, in 8 bits per channel.

    Example:
        >>> reconstruction, indices = MeanColour()(torch.ones(1, 3, 5, 16, 16))
        >>> reconstruction.min().item(), indices.shape
        (1.0, torch.Size([1, 5, 1, 1, 1]))
    """

    codebook_size, digits = 2**24, (2**8, 2**8, 2**8)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) in [-1, 1] -> (reconstruction of that shape, indices (B, T, 1, 1, 1))."""
        colour, indices = quantize_uniform((pixels.mean((3, 4), keepdim=True) + 1) / 2, (8, 8, 8))
        return (colour * 2 - 1).expand_as(pixels), indices


@BASELINES.register_module()
class Thumbnail(Baseline):
    """Each cell's mean colour, its bits divided among R, G and B, then bicubic interpolation.

    Args:
        bits_per_pixel: Budget, of a tokenizer; a cell has as many whole bits as fit, from 1 to 48.
        size: (T, H, W) of the pixels of the tokenizer.
        grid: (t, h, w) of its latents: (1, 1, N) for a 1-D tokenizer, where h and w are chosen to suit the pixels.
        first_frame_alone: Whether the first of the t groups of frames is the first frame, as in a causal tokenizer.

    Example:
        >>> thumbnail = Thumbnail(bits_per_pixel=0.12, size=(5, 16, 16), grid=(2, 2, 2))
        >>> reconstruction, indices = thumbnail(torch.zeros(1, 3, 5, 16, 16))
        >>> reconstruction.shape, indices.shape, thumbnail.bits   # 0.12 * 1280 pixels / 8 cells = 19.2
        (torch.Size([1, 3, 5, 16, 16]), torch.Size([1, 2, 2, 2, 1]), (6, 7, 6))
    """

    def __init__(self, *, bits_per_pixel: float, size: Size, grid: Size, first_frame_alone: bool = True):
        self.grid, self.first_frame_alone = image_grid(grid, size), first_frame_alone
        bits = math.floor(bits_per_pixel * math.prod(size) / math.prod(self.grid) + 1e-6)
        self.bits = share_bits(min(max(bits, 1), MOST_BITS))
        self.codebook_size, self.digits = 2**sum(self.bits), tuple(2**bits for bits in self.bits)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) in [-1, 1] -> (reconstruction of that shape, indices (B, t, h, w, 1))."""
        colours, indices = self.encode(pixels)
        return self.decode((colours, indices), tuple(pixels.shape[2:])), indices

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) in [-1, 1] -> rounded colours (B, 3, t, h, w) in [0, 1], indices (B, t, h, w, 1)."""
        groups = pixels.split(self._lengths(pixels.shape[2]), 2)
        frames = torch.cat([group.mean(2, keepdim=True) for group in groups], 2)
        cells = F.adaptive_avg_pool3d(frames, (None, *self.grid[1:]))
        return quantize_uniform((cells + 1) / 2, self.bits)

    def decode(self, codes: tuple[Tensor, Tensor], size: Size) -> Tensor:
        """What :meth:`encode` returned -> pixels (B, 3, T, H, W) of the size (T, H, W)."""
        colours, _ = codes
        frames = F.interpolate(rearrange(colours, "b c t h w -> (b t) c h w"), size=size[1:], mode="bicubic")
        frames = rearrange(frames, "(b t) c h w -> b c t h w", b=len(colours)).clamp(0, 1) * 2 - 1
        return frames.repeat_interleave(torch.tensor(self._lengths(size[0]), device=frames.device), dim=2)

    def _lengths(self, frames: int) -> list[int]:
        """Numbers of frames that share a colour."""
        alone = int(self.first_frame_alone and self.grid[0] > 1)
        length = math.ceil((frames - alone) / (self.grid[0] - alone))
        whole, rest = divmod(frames - alone, length)
        return [1] * alone + [length] * whole + [rest] * (rest > 0)

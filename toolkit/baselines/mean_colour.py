"""Mean colours: what is left of frames without any detail."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.contracts import Baseline
from toolkit.registry import BASELINES


def quantize_uniform(x: Tensor, bits: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Colours (B, 3, t, h, w) in [0, 1] -> rounded to 2^bits levels per channel, and indices (B, t, h, w, 1).

    A channel of no bits is 0.5 throughout. R has the most significant digits.
    """
    top = torch.tensor([2**b - 1 for b in bits], dtype=x.dtype, device=x.device).view(1, 3, 1, 1, 1)
    digits = (x * top).round()
    place = torch.tensor([2**(bits[1] + bits[2]), 2**bits[2], 1], device=x.device).view(1, 3, 1, 1, 1)
    indices = (digits.long() * place).sum(1).unsqueeze(-1)
    return torch.where(top == 0, 0.5, digits / top.clamp(min=1)), indices


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

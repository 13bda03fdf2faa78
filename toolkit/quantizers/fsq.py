"""Finite scalar quantization (Mentzer et al., arXiv:2309.15505), also with iFSQ's bound (arXiv:2601.17124)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from toolkit.contracts import Quantizer
from toolkit.quantizers.digits import join_digits, place_values, split_digits
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS

# tanh(slope * z): FSQ's own, and iFSQ's 2 sigmoid(1.6 z) - 1, which spreads Gaussian latents more evenly.
BOUNDS = {"tanh": 1.0, "ifsq": 0.8}
_EPS = 1e-3  # the outermost levels are reached by finite latents


@QUANTIZERS.register_module()
class FSQ(Quantizer):
    """Finite scalar quantization: each channel is bounded and rounded to one of its levels (arXiv:2309.15505).

    A channel of L levels is bounded to f(z) = tanh(z + s) (L - 1) (1 + eps) / 2 - o, with o = 1/2 for an
    even L and 0 for an odd one and s such that f(0) = 0, and rounded to an integer; the code is that over
    floor(L / 2), in [-1, 1]. There is nothing to learn and no loss.

    Digit order: the lowest level is digit 0, and the first channel is the least significant digit, as in
    the paper's code.

    Args:
        levels: L of each channel, from 3 on; d is their number and K their product.
        bound: "tanh", or "ifsq" for iFSQ's 2 sigmoid(1.6 z) - 1 in its place (arXiv:2601.17124).
        rotation_trick: Pass gradients from codes to bounded latents rotated (arXiv:2410.06424) instead of
            straight through.

    Raises:
        ValueError: If there are no levels, one has fewer than 3, K is not below 2^63, or the bound is unknown.

    Example:
        >>> fsq = FSQ(levels=[3, 5]).eval()
        >>> output = fsq(torch.tensor([9.0, -0.6]).reshape(1, 2, 1, 1, 1))
        >>> output.codes.flatten().tolist(), output.indices.item()   # digits 2 and 1: 2 + 3 * 1
        ([1.0, -0.5], 5)
    """

    def __init__(self, *, levels: Sequence[int], bound: str = "tanh", rotation_trick: bool = False):
        super().__init__()
        levels = list(levels)
        if not levels or min(levels) < 3 or prod(levels) >= 2**63:
            raise ValueError("FSQ needs one or more levels from 3 on with a product below 2^63, got "
                             f"{levels}; for channels of two levels take LFQ or BSQ.")
        if bound not in BOUNDS:
            raise ValueError(f"FSQ takes bound {' or '.join(map(repr, BOUNDS))}, got {bound!r}.")
        self.levels, self.slope, self.rotation_trick = levels, BOUNDS[bound], rotation_trick
        self.dim, self.codebook_size = len(levels), prod(levels)
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        self.register_buffer("places", place_values(levels, first="least"), persistent=False)

    @property
    def digits(self) -> tuple[int, ...]:
        """The levels, of the last channel first."""
        return tuple(reversed(self.levels))

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, N, d) -> codes (B, N, d), indices (B, N, 1), no losses."""
        width = self.sizes // 2
        # Of the integer sizes each time: float buffers would lose digits in a half-precision module.
        reach, offset = (self.sizes - 1) * (1 + _EPS) / 2, (self.sizes % 2 == 0) / 2
        bounded = torch.tanh(self.slope * z + torch.atanh(offset / reach)) * reach - offset
        rounded = bounded.round()
        # NaN has no digit; its codes stay NaN, but indices must lie in the codebook.
        indices = join_digits(rounded.nan_to_num(0.0).long() + width, self.places).unsqueeze(-1)
        codes = rounded / width
        if self.training:
            codes = straight_through(bounded / width, codes, rotation_trick=self.rotation_trick)
        return codes, indices, {}

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, 1) -> codes (B, N, d) in [-1, 1]."""
        width = self.sizes // 2
        return (split_digits(indices.squeeze(-1), self.places, self.sizes) - width).float() / width

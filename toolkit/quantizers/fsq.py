"""Finite scalar quantization (Mentzer et al., arXiv:2309.15505), also with iFSQ's bound (arXiv:2601.17124)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from toolkit.quantizers.digits import DigitQuantizer
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS

# Slope a of tanh(a z). iFSQ's 2 sigmoid(1.6 z) - 1 is tanh(0.8 z); it uses the levels more evenly.
BOUNDS = {"tanh": 1.0, "ifsq": 0.8}
_EPS = 1e-3  # lets finite latents reach the outermost integers even before rounding


@QUANTIZERS.register_module()
class FSQ(DigitQuantizer):
    """Finite scalar quantization: each channel is bounded and rounded to one of its levels (arXiv:2309.15505).

    A channel of L levels is bounded to f(z) = tanh(a z + s) (L - 1) (1 + eps) / 2 - o and rounded to one of L integers.
    The slope a depends on ``bound``. The offset o is 1/2 for an even L and 0 for an odd L. The shift s makes f(0) = 0.
    The code is the integer over floor(L / 2), in [-1, 1]. There are no parameters and no losses.

    Digit order: the lowest level is digit 0; the first channel is the least significant digit (the paper's code).

    Args:
        levels: The number of levels L of each channel, 3 to 2^24. K is their product, d how many there are.
        bound: "tanh", or "ifsq" for iFSQ's 2 sigmoid(1.6 z) - 1 (arXiv:2601.17124).
        rotation_trick: Pass gradients to the bounded latents rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If ``levels`` is empty or a number in it out of range, K is 2^63 or more, or ``bound`` is unknown.

    Example:
        >>> fsq = FSQ(levels=[3, 5]).eval()
        >>> output = fsq(torch.tensor([9.0, -0.6]).reshape(1, 2, 1, 1, 1))
        >>> output.codes.flatten().tolist(), output.indices.item()   # digits 2 and 1: 2 + 3 * 1
        ([1.0, -0.5], 5)
    """

    def __init__(self, *, levels: Sequence[int], bound: str = "tanh", rotation_trick: bool = False):
        levels = list(levels)
        if not levels or min(levels) < 3 or max(levels) > 2**24 or prod(levels) >= 2**63:  # float32 counts to 2^24
            raise ValueError("FSQ needs one or more levels, each from 3 to 2^24, with a product below 2^63, got "
                             f"{levels}; for channels of two levels use LFQ or BSQ.")
        if bound not in BOUNDS:
            raise ValueError(f"FSQ needs bound {' or '.join(map(repr, BOUNDS))}, got {bound!r}.")
        super().__init__(levels, most_significant_first=False)
        self.levels, self.slope, self.rotation_trick = levels, BOUNDS[bound], rotation_trick

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        half_levels = self.sizes // 2
        # Computed from integers: float buffers would lose digits in a half-precision module.
        half_range, offset = (self.sizes - 1) * (1 + _EPS) / 2, (self.sizes % 2 == 0) / 2
        bounded = torch.tanh(self.slope * z + torch.atanh(offset / half_range)) * half_range - offset
        rounded = bounded.round().clamp(-half_levels, (self.sizes - 1) // 2)  # eps can add a level if L > 1000
        # The code of NaN is NaN. Its index must lie in the codebook all the same.
        indices = self.digits_to_indices(rounded.nan_to_num(0.0).long() + half_levels)
        codes = rounded / half_levels
        if self.training:
            codes = straight_through(bounded / half_levels, codes, rotation_trick=self.rotation_trick)
        return codes, indices, {}

    def lookup(self, indices: Tensor) -> Tensor:
        half_levels = self.sizes // 2
        return (self.indices_to_digits(indices) - half_levels).float() / half_levels

"""Base class of quantizers whose channels are the digits of an index."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from operator import mul

import torch
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Quantizer


class DigitQuantizer(Quantizer):
    """A quantizer whose index is a mixed-radix number: one digit per channel, ``sizes[i]`` values for the i-th.

    Codebook g has channels g * len(sizes) to (g + 1) * len(sizes).
    """

    digits: tuple[int, ...] = ()  # hides the base class's property

    def __init__(self, sizes: Sequence[int], *, most_significant_first: bool, num_codebooks: int = 1):
        super().__init__()
        self.dim, self.codebook_size, self.num_codebooks = len(sizes) * num_codebooks, prod(sizes), num_codebooks
        least_first = sizes[::-1] if most_significant_first else sizes  # least significant digit first
        places = torch.tensor(list(accumulate(least_first[:-1], mul, initial=1)))  # place values of the digits
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("places", places.flip(0) if most_significant_first else places, persistent=False)
        self.digits = tuple(least_first[::-1])

    def digits_to_indices(self, digits: Tensor) -> Tensor:
        """Digits (B, N, d), integers or booleans -> indices (B, N, G)."""
        return (rearrange(digits, "b n (g k) -> b n g k", g=self.num_codebooks) * self.places).sum(-1)

    def indices_to_digits(self, indices: Tensor) -> Tensor:
        """Indices (B, N, G) -> digits (B, N, d)."""
        return (indices.unsqueeze(-1) // self.places % self.sizes).flatten(2)

"""An index as digits: one digit per channel, each with its own number of values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor


def place_values(sizes: Sequence[int], *, first: str) -> Tensor:
    """Sizes of n digits -> place value of each (n,) int64; the first digit is the "most" or "least" significant."""
    if first == "most":
        return place_values(list(reversed(sizes)), first="least").flip(0)
    return torch.tensor(list(accumulate([1, *sizes[:-1]], mul)))


def join_digits(digits: Tensor, places: Tensor) -> Tensor:
    """Digits (..., n), integers or booleans -> indices (...) int64."""
    return (digits * places).sum(-1)


def split_digits(indices: Tensor, places: Tensor, sizes: Tensor | int) -> Tensor:
    """Indices (...) int64 -> digits (..., n) int64."""
    return indices.unsqueeze(-1) // places % sizes

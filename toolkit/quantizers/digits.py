"""An index as digits: one for each channel, each with its own number of values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor


def place_values(sizes: Sequence[int], *, first: str) -> Tensor:
    """What a digit is worth in an index.

    Args:
        sizes: How many values each digit has; their product is below 2^63.
        first: "most" or "least", the significance of the first digit.

    Returns:
        (len(sizes),) int64.

    Example:
        >>> place_values([2, 3, 5], first="most").tolist(), place_values([2, 3, 5], first="least").tolist()
        ([15, 5, 1], [1, 2, 6])
    """
    if first == "most":
        return place_values(list(reversed(sizes)), first="least").flip(0)
    return torch.tensor(list(accumulate([1, *sizes[:-1]], mul)))


def join_digits(digits: Tensor, places: Tensor) -> Tensor:
    """Digits (..., n), integers or booleans -> indices (...) int64.

    Example:
        >>> join_digits(torch.tensor([1, 0, 1]), place_values([2, 2, 2], first="most")).item()
        5
    """
    return (digits * places).sum(-1)


def split_digits(indices: Tensor, places: Tensor, sizes: Tensor | int) -> Tensor:
    """Indices (...) int64 -> digits (..., n) int64, the inverse of :func:`join_digits`.

    Example:
        >>> split_digits(torch.tensor(5), place_values([2, 2, 2], first="most"), 2).tolist()
        [1, 0, 1]
    """
    return indices.unsqueeze(-1) // places % sizes

"""Weighted mixtures of datasets: the source of each training step, the same on every process."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from toolkit.contracts import Dataset
from toolkit.data.seeding import mix


@dataclass
class Source:
    """A dataset and how a loader reads it.

    Attributes:
        dataset: Map-style or iterable.
        batch_size: B of one process.
        weight: Share of the batches, relative to the other sources'.
        num_workers: Processes that read ahead; 0 reads in the training process.

    Example:
        >>> from toolkit.data import VideoClips
        >>> Source(VideoClips(num_frames=5, train=False), batch_size=4).weight
        1.0
    """

    dataset: Dataset
    batch_size: int
    weight: float = 1.0
    num_workers: int = 0

    def __post_init__(self):
        whole = isinstance(self.batch_size, int) and isinstance(self.num_workers, int)
        if not whole or self.batch_size < 1 or self.num_workers < 0 or not self.weight >= 0:
            raise ValueError("a source takes whole numbers as batch_size >= 1 and num_workers >= 0, and weight >= 0, "
                             f"got {self.batch_size!r}, {self.num_workers!r} and {self.weight}.")
        if not self.is_iterable and not len(self.dataset):
            raise ValueError(f"{type(self.dataset).__name__} has no samples; check its path.")

    @property
    def is_iterable(self) -> bool:
        """Whether the dataset has ``__iter__``; all others are map-style."""
        return isinstance(self.dataset, Iterable)


def choose_source(weights: Sequence[float], *, seed: int, draw: int) -> int:
    """A source's number, drawn with these weights (not all 0): a function of ``seed`` and ``draw``."""
    edges = list(accumulate(weights))
    return bisect_right(edges, mix(seed, "choice", draw) / 2**63 * edges[-1])

"""Weighted mixtures of datasets: the source of each training step, the same on every process."""

from __future__ import annotations

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

    Raises:
        ValueError: If a number is out of range, or a map-style dataset is empty.

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
        if not isinstance(self.batch_size, int) or not isinstance(self.num_workers, int):
            raise ValueError(f"a source takes whole numbers as batch_size and num_workers, got {self.batch_size!r} and "
                             f"{self.num_workers!r}.")
        if self.batch_size < 1 or self.num_workers < 0 or not self.weight >= 0:
            raise ValueError(f"a source takes batch_size >= 1, num_workers >= 0 and weight >= 0, got "
                             f"{self.batch_size}, {self.num_workers}, {self.weight}.")
        if not self.is_iterable and not len(self.dataset):
            raise ValueError(f"{type(self.dataset).__name__} has no samples; check its path.")

    @property
    def is_iterable(self) -> bool:
        """Whether the dataset has ``__iter__``; all others are map-style."""
        return isinstance(self.dataset, Iterable)


class Mixture:
    """The source of every batch, a function of the seed and the batch's number.

    Args:
        weights: One per source, not all 0.
        seed: The same on all processes.
        draws_per_choice: Consecutive batches from one source (the micro-batches of one step).
    """

    def __init__(self, weights: Sequence[float], *, seed: int, draws_per_choice: int = 1):
        if not weights or sum(weights) <= 0 or draws_per_choice < 1:
            raise ValueError("a mixture takes sources with a positive weight and draws_per_choice >= 1, got "
                             f"weights {list(weights)} and {draws_per_choice}.")
        self.edges = list(accumulate(weights))
        self.seed, self.draws_per_choice = seed, draws_per_choice

    def choice(self, draw: int) -> int:
        """The source's number for batch ``draw``, counted from 0."""
        uniform = mix(self.seed, "choice", draw // self.draws_per_choice) / 2 ** 63
        return next(number for number, edge in enumerate(self.edges) if uniform * self.edges[-1] < edge)

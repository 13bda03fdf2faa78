"""Samples as a function of (seed, source, position): order, random numbers, replacements of unreadable files.

Nothing here depends on the number of workers, and a position is a number that can be saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import torch
import torch.utils.data
from torch import Tensor

from toolkit.contracts import DataError, Dataset
from toolkit.data.seeding import mix, seeded

# Tries for one sample. If half of all files are unreadable, 32 failures in a row have a probability of 2e-10; if
# all are, reading ends at the first sample.
MAX_TRIES = 32
# A sample or None, and the (path, error message) of each failed try. In training, a None had MAX_TRIES failures.
Attempt = tuple[dict[str, Any] | None, list[tuple[str, str]]]


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


@dataclass
class Batch:
    """Samples of one source.

    Attributes:
        pixels: (B, C, T, H, W) float32 in [-1, 1].
        keys: B names.
        modality: The dataset's, "image" or "video".
        unreadable: Error messages of the samples skipped to make this batch.

    Example:
        >>> Batch(torch.zeros(2, 3, 1, 8, 8), ["a.png", "b.png"], modality="image").unreadable
        []
    """

    pixels: Tensor
    keys: list[str]
    modality: str
    unreadable: list[str] = field(default_factory=list)


class Fetched(NamedTuple):
    """A batch from a worker: pixels (B, C, T, H, W), or None if no sample was readable, B keys, and failed tries."""

    pixels: Tensor | None
    keys: list[str]
    failures: list[tuple[str, str]]


def endless_batches(source: Source, *, seed: int, rank: int, world_size: int,
                    start: int) -> Iterator[list[tuple[int, int]]]:
    """Batches of (index, sample seed) of a map-style source from one seeded permutation per epoch, without end.

    All epochs are one sequence of positions, of which ``start`` were consumed before, by all processes together.
    Of each ``world_size`` consecutive batches a rank takes one, so the batches of all processes, joined, are the
    batch of a single process. A batch may span two epochs, so no sample is ever dropped.
    """
    length, batch_size = len(source.dataset), source.batch_size

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        return torch.randperm(length, generator=torch.Generator().manual_seed(mix(seed, "epoch", epoch)))

    for first in count(start + rank * batch_size, world_size * batch_size):
        yield [(int(order(position // length)[position % length]), mix(seed, "sample", position))
               for position in range(first, first + batch_size)]


def batches_in_order(source: Source, *, seed: int, rank: int, world_size: int) -> Iterator[list[tuple[int, int]]]:
    """Batches of (index, sample seed) of the samples ``rank``, ``rank + world_size``, ... of a map-style source."""
    indices = range(rank, len(source.dataset), world_size)
    for first in range(0, len(indices), source.batch_size):
        yield [(index, mix(seed, "sample", index)) for index in indices[first:first + source.batch_size]]


class MapSamples(torch.utils.data.Dataset):
    """A map-style dataset read by (index, seed); ``replace`` chooses between replacing and skipping unreadable samples.

    A replacement's index follows from the sample's seed, so it is the same in every run.
    """

    def __init__(self, dataset: Dataset, *, replace: bool):
        self.dataset, self.replace = dataset, replace

    def __getitem__(self, index_and_seed: tuple[int, int]) -> Attempt:
        index, seed = index_and_seed
        failures: list[tuple[str, str]] = []
        for attempt in range(MAX_TRIES if self.replace else 1):
            if attempt:
                index = mix(index_and_seed[1], "replacement", attempt) % len(self.dataset)
                seed = mix(index_and_seed[1], "replacement seed", attempt)
            try:
                with seeded(seed):
                    return self.dataset[index], failures
            except DataError as error:
                failures.append(failure(error))
        return None, failures


def failure(error: DataError) -> tuple[str, str]:
    """(path, message) of an error; the message twice if it does not carry its path."""
    return error.path or str(error), str(error)


def collate(attempts: list[Attempt]) -> Fetched:
    """Stack the samples of a batch; a ValueError if they differ in shape."""
    samples = [sample for sample, _ in attempts if sample is not None]
    keys = [sample["key"] for sample in samples]
    shapes = {tuple(sample["pixels"].shape) for sample in samples}
    if len(shapes) > 1 or any(len(shape) != 4 for shape in shapes):
        raise ValueError(f"a batch takes pixels (C, T, H, W) of one shape, got {sorted(shapes)} from {keys}; let the "
                         "dataset crop to one size.")
    pixels = torch.stack([sample["pixels"] for sample in samples]) if samples else None
    return Fetched(pixels, keys, [pair for _, failures in attempts for pair in failures])

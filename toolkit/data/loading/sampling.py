"""Samples as a function of a seed: the order, the random numbers, the replacements of unreadable files.

Everything here depends on (seed, source, position) only, so that batches do not depend on the number of
workers, and a position is a number that can be saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any

import torch
import torch.utils.data
from torch import Tensor

from toolkit.contracts import DataError, Dataset
from toolkit.data.seeding import mix, seeded

# Tries for one sample. If half of all files are unreadable, 32 failures in a row have a probability of 2e-10; if
# all are, reading ends at the first sample.
MAX_TRIES = 32


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


@dataclass
class Fetched:
    """A batch from a worker: pixels (B, C, T, H, W), or None if every sample was unreadable, and B keys.

    Each unreadable sample adds its (path, error message) to ``failures``; ``exhausted`` is whether one failed
    MAX_TRIES times.
    """

    pixels: Tensor | None
    keys: list[str]
    failures: list[tuple[str, str]]
    tried: int  # number of readable and unreadable samples
    exhausted: bool

    def pin_memory(self) -> Fetched:
        """Pin the pixels; the loader's pinning thread calls it."""
        if self.pixels is not None:
            self.pixels = self.pixels.pin_memory()
        return self


@dataclass
class Attempt:
    """One sample or None, the (path, error message) of failed tries, and whether all MAX_TRIES failed."""

    sample: dict[str, Any] | None
    failures: list[tuple[str, str]]
    exhausted: bool = False


class EndlessBatches(torch.utils.data.Sampler):
    """Batches of (index, sample seed) from one seeded permutation per epoch, without end.

    All epochs are one sequence of positions, of which ``start`` were consumed before, by all processes together.
    Of each ``world_size`` consecutive batches a rank takes one, so the batches of all processes, joined, are the
    batch of a single process. A batch may span two epochs, so no sample is ever dropped.
    """

    def __init__(self, length: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1,
                 start: int = 0):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.start = rank, world_size, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = lru_cache(maxsize=1)(self._order)
        for first in count(self.start + self.rank * self.batch_size, self.world_size * self.batch_size):
            yield [(int(order(position // self.length)[position % self.length]), mix(self.seed, "sample", position))
                   for position in range(first, first + self.batch_size)]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(mix(self.seed, "epoch", epoch)))


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
                    return Attempt(self.dataset[index], failures)
            except DataError as error:
                failures.append(failure(error))
        return Attempt(None, failures, exhausted=self.replace)


def failure(error: DataError) -> tuple[str, str]:
    """(path, message) of an error; the message twice if it does not carry its path."""
    return error.path or str(error), str(error)


def collate(attempts: list[Attempt]) -> Fetched:
    """Stack the samples of a batch; a ValueError if they differ in shape."""
    samples = [attempt.sample for attempt in attempts if attempt.sample is not None]
    failures = [pair for attempt in attempts for pair in attempt.failures]
    shapes = {tuple(sample["pixels"].shape) for sample in samples}
    if len(shapes) > 1 or any(len(shape) != 4 for shape in shapes):
        raise ValueError(f"a batch takes pixels (C, T, H, W) of one shape, got {sorted(shapes)} from "
                         f"{[sample['key'] for sample in samples]}; let the dataset crop to one size.")
    pixels = torch.stack([sample["pixels"] for sample in samples]) if samples else None
    return Fetched(pixels, [sample["key"] for sample in samples], failures, len(samples) + len(failures),
                   any(attempt.exhausted for attempt in attempts))

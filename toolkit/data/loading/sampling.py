"""Samples as a function of a seed: which index, which random draws, what to do with an unreadable file.

Everything here depends on (seed, source, position) alone, so that batches do not depend on how many
workers read them, and a position is a number that can be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils.data
from torch import Tensor

from toolkit.contracts import DataError

# Replacements tried for one unreadable sample. With half of all files unreadable, 32 in a row are
# a chance of 2e-10; with all of them it ends at the first sample.
MAX_TRIES = 32


@dataclass
class Batch:
    """Samples of one source.

    Attributes:
        pixels: (B, C, T, H, W) float32 in [-1, 1].
        keys: B names.
        modality: The dataset's, "image" or "video".
        unreadable: What was skipped to make this batch, one message per sample.

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
    """What a worker hands over: samples, and the (path, reason) of those that could not be read.

    Attributes:
        pixels: (B, C, T, H, W), or None if every sample was unreadable.
        keys: B names.
        failures: (path, reason), one per unreadable sample.
        tried: Samples tried, readable or not.
        exhausted: Whether a sample was given up after MAX_TRIES replacements.
    """

    pixels: Tensor | None
    keys: list[str]
    failures: list[tuple[str, str]]
    tried: int
    exhausted: bool

    def pin_memory(self) -> Fetched:
        """Itself with pinned pixels; the loader's pinning thread calls it."""
        if self.pixels is not None:
            self.pixels = self.pixels.pin_memory()
        return self


@dataclass
class Attempt:
    """One sample as read: the sample or None, what failed on the way, and whether it was given up."""

    sample: dict[str, Any] | None
    failures: list[tuple[str, str]]
    exhausted: bool = False


def mix(*parts: int | str) -> int:
    """A 63-bit number that depends on all ``parts`` and on nothing else.

    Example:
        >>> mix(0, "epoch", 1) == mix(0, "epoch", 1), mix(0, "epoch", 1) == mix(0, "epoch", 2)
        (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator starts at ``seed`` inside and continues undisturbed afterwards.

    Example:
        >>> with seeded(3):
        ...     a = torch.rand(2)
        >>> with seeded(3):
        ...     b = torch.rand(2)
        >>> torch.equal(a, b)
        True
    """
    state = torch.get_rng_state()
    # not torch.manual_seed, which would reseed the accelerators of the training process too
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class EndlessBatches(torch.utils.data.Sampler):
    """Batches of (index, sample seed) from one seeded permutation per epoch, without end.

    The epochs of all processes are one sequence of positions. Of each stretch of ``world_size`` batches, a rank
    has one, so that the processes' batches one after the other are the batch of a single process. A batch may
    straddle two epochs, so no sample is ever dropped.

    Args:
        length: Samples in the dataset.
        batch_size: B of one process.
        seed: Of this source.
        rank, world_size: This process among all.
        start: Positions already consumed, by all processes together.

    Example:
        >>> batches = iter(EndlessBatches(4, batch_size=2, seed=0))
        >>> sorted(index for _ in range(2) for index, _ in next(batches))
        [0, 1, 2, 3]
    """

    def __init__(self, length: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1,
                 start: int = 0):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.start = rank, world_size, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position, epoch, order = self.start + self.rank * self.batch_size, None, None
        while True:
            batch = []
            for _ in range(self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(mix(self.seed, "epoch", epoch))
                    order = torch.randperm(self.length, generator=generator)
                batch.append((int(order[position % self.length]), mix(self.seed, "sample", position)))
                position += 1
            position += (self.world_size - 1) * self.batch_size
            yield batch


class MapSamples(torch.utils.data.Dataset):
    """A map-style dataset read by (index, seed), unreadable samples replaced or left out.

    A replacement's index follows from the sample's seed, so it is the same in every run.

    Args:
        dataset: Map-style; it may draw from torch's global generator.
        replace: Whether an unreadable sample is replaced.

    Example:
        >>> class Two(torch.utils.data.Dataset):
        ...     def __len__(self): return 2
        ...     def __getitem__(self, index):
        ...         if index == 0:
        ...             raise DataError("0.mp4: torn")
        ...         return {"pixels": torch.rand(3, 1, 2, 2), "key": "1.mp4"}
        >>> attempt = MapSamples(Two(), replace=True)[0, 5]
        >>> attempt.sample["key"], set(attempt.failures)
        ('1.mp4', {('0.mp4: torn', '0.mp4: torn')})
    """

    def __init__(self, dataset: torch.utils.data.Dataset, *, replace: bool):
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
    """(path, message) of an error; an error that does not carry its path is its own name.

    Example:
        >>> failure(DataError("torn"))
        ('torn', 'torn')
    """
    return getattr(error, "path", str(error)), str(error)


def collate(attempts: list[Attempt]) -> Fetched:
    """Samples of a batch stacked.

    Raises:
        ValueError: If a sample breaks the contract, or the samples differ in shape.

    Example:
        >>> sample = {"pixels": torch.zeros(3, 1, 8, 8), "key": "a.png"}
        >>> collate([Attempt(sample, []), Attempt(None, [("b.png", "torn")])]).pixels.shape
        torch.Size([1, 3, 1, 8, 8])
    """
    samples = [attempt.sample for attempt in attempts if attempt.sample is not None]
    failures = [fault for attempt in attempts for fault in attempt.failures]
    shapes = {tuple(sample["pixels"].shape) for sample in samples}
    if len(shapes) > 1 or any(len(shape) != 4 for shape in shapes):
        raise ValueError(f"a batch takes pixels (C, T, H, W) of one shape, got {sorted(shapes)} from "
                         f"{[sample['key'] for sample in samples]}; let the dataset crop to one size.")
    pixels = torch.stack([sample["pixels"] for sample in samples]) if samples else None
    return Fetched(pixels, [sample["key"] for sample in samples], failures, len(samples) + len(failures),
                   any(attempt.exhausted for attempt in attempts))

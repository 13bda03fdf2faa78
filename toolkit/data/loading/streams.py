"""Iterable datasets, third-party ones included, split over readers, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import torch.utils.data
from torchdata.stateful_dataloader import Stateful

from toolkit.contracts import DataError, Dataset
from toolkit.data.loading.sampling import MAX_TRIES, Attempt, failure
from toolkit.data.seeding import mix, seeded


class StreamSamples(torch.utils.data.IterableDataset):
    """An iterable dataset, split over the readers: the processes times their workers.

    A dataset whose ``shard`` returns one yields the samples of one reader only. Otherwise each of n readers
    reads all samples and keeps every n-th, so all must see the same order; the dataset may draw from torch's
    global generator, which has the same seed in all of them.

    The position is the iterator's ``state_dict`` if it has one (torchdata's ``Stateful``), else the dataset's if
    that is not None, else the number of samples read, which are read again on resume.
    """

    def __init__(self, dataset: Dataset, *, seed: int, rank: int, world_size: int, endless: bool):
        self.dataset, self.seed, self.rank = dataset, seed, rank
        self.world_size, self.endless = world_size, endless

    def __iter__(self) -> StreamIterator:
        return StreamIterator(self)


class StreamIterator(Iterator[Attempt]):
    """One reader of a :class:`StreamSamples`; StatefulDataLoader saves its state."""

    def __init__(self, stream: StreamSamples):
        worker = torch.utils.data.get_worker_info()
        num_workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        self.stream = stream
        self.index = stream.rank * num_workers + number
        self.count = stream.world_size * num_workers
        shard = stream.dataset.shard(self.index, self.count)
        self.is_sharded, self.dataset = shard is not None, stream.dataset if shard is None else shard
        self.passes, self.read = 0, 0  # finished passes, samples read of the current one
        self._begin()

    def _begin(self) -> None:
        with seeded(mix(self.stream.seed, "pass", self.passes)):
            self.iterator = iter(self.dataset)

    def __next__(self) -> Attempt:
        name = type(self.dataset).__name__
        failures: list[tuple[str, str]] = []
        ended_passes = 0
        while len(failures) < MAX_TRIES:
            try:
                sample = self._advance()
            except StopIteration:
                ended_passes += 1
                if self.stream.endless and ended_passes <= MAX_TRIES:
                    self.passes, self.read = self.passes + 1, 0
                    self._begin()
                elif failures:
                    break
                elif not self.stream.endless:
                    raise
                else:
                    raise ValueError(f"{name} has no sample for reader {self.index} of {self.count} (processes times "
                                     "workers); set a smaller num_workers, or train on more samples.") from None
            except DataError as error:
                if isinstance(self.iterator, Generator):  # an error ends it: the samples after would never be read
                    raise ValueError(f"{name} is iterated by a generator, which an unreadable file ends; skip such "
                                     "files in it, or return an iterator object whose __next__ can be called again."
                                     ) from error
                if self._is_mine:
                    failures.append(failure(error))
            else:
                if self._is_mine:
                    return sample, failures
        return None, failures

    @property
    def _is_mine(self) -> bool:
        """Whether the sample read last is this reader's."""
        return self.is_sharded or (self.read - 1) % self.count == self.index

    def _advance(self) -> dict[str, Any]:
        with seeded(mix(self.stream.seed, "pass", self.passes, self.read)):
            self.read += 1
            return next(self.iterator)

    def state_dict(self) -> dict[str, Any]:
        """The number of finished passes, of samples read since, and the iterator's or the dataset's own state."""
        iterator = self.iterator.state_dict() if isinstance(self.iterator, Stateful) else None
        dataset = self.dataset.state_dict() if iterator is None else None
        return {"passes": self.passes, "read": self.read, "iterator": iterator, "dataset": dataset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was saved."""
        self.passes, self.read = state["passes"], state["read"]
        if state["dataset"] is not None:
            self.dataset.load_state_dict(state["dataset"])
        self._begin()
        if state["iterator"] is not None:
            self.iterator.load_state_dict(state["iterator"])
        elif state["dataset"] is None:
            self.read = 0
            while self.read < state["read"]:
                with suppress(DataError, StopIteration):  # both were met before
                    self._advance()

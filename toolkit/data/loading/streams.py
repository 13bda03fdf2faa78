"""Iterable datasets, third parties' among them, read in shards with a position that can be saved."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch.utils.data

from toolkit.contracts import DataError
from toolkit.data.loading.sampling import MAX_TRIES, Attempt, failure, mix, seeded


class StreamSamples(torch.utils.data.IterableDataset):
    """An iterable dataset, shared out over processes and their workers.

    Each of the ``n`` readers (processes times workers) keeps every n-th sample, so the dataset must
    yield the same order to all of them; it may draw from torch's global generator, which is
    seeded alike everywhere. A dataset that can skip cheaply offers ``shard(index=, count=)``: it
    is told its share and keeps all it yields.

    The position is the dataset's or its iterator's own ``state_dict`` if it has one; otherwise the
    samples already seen are read again on resume.

    Args:
        dataset: Iterable, samples as the contract has them.
        seed: Of this source.
        rank, world_size: This process among all.
        endless: Start over at the end.

    Example:
        >>> class Three(torch.utils.data.IterableDataset):
        ...     def __iter__(self):
        ...         yield from ({"pixels": torch.zeros(3, 1, 2, 2), "key": str(i)} for i in range(3))
        >>> stream = StreamSamples(Three(), seed=0, rank=1, world_size=2, endless=False)
        >>> [attempt.sample["key"] for attempt in stream]
        ['1']
    """

    def __init__(self, dataset: torch.utils.data.IterableDataset, *, seed: int, rank: int = 0,
                 world_size: int = 1, endless: bool = True):
        self.dataset, self.seed, self.rank = dataset, seed, rank
        self.world_size, self.endless = world_size, endless

    def __iter__(self) -> StreamIterator:
        return StreamIterator(self)


class StreamIterator:
    """One reader's pass over a :class:`StreamSamples`; StatefulDataLoader saves its state.

    Example:
        >>> iterator = iter(StreamSamples([], seed=0))   # a list stands for a dataset
        >>> iterator.state_dict()
        {'passes': 0, 'read': 0, 'inner': None}
    """

    def __init__(self, stream: StreamSamples):
        worker = torch.utils.data.get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        self.stream = stream
        self.index = stream.rank * workers + number
        self.count = stream.world_size * workers
        self.told = hasattr(stream.dataset, "shard")
        if self.told:
            stream.dataset.shard(index=self.index, count=self.count)
        self.passes, self.read = 0, 0
        self._begin()

    def _begin(self) -> None:
        with seeded(mix(self.stream.seed, "pass", self.passes)):
            self.iterator = iter(self.stream.dataset)

    def __iter__(self) -> Iterator[Attempt]:
        return self

    def __next__(self) -> Attempt:
        failures: list[tuple[str, str]] = []
        empty_passes = 0
        while len(failures) < MAX_TRIES:
            try:
                sample, mine = self._advance()
            except StopIteration:
                empty_passes += 1
                if failures and (not self.stream.endless or empty_passes > MAX_TRIES):
                    return Attempt(None, failures)
                if not self.stream.endless:
                    raise
                if empty_passes > MAX_TRIES:
                    raise self._without_share() from None
                self.passes, self.read = self.passes + 1, 0
                self._begin()
                continue
            except DataError as error:
                self._refuse_generator(error)
                if self._is_mine(self.read - 1):
                    failures.append(failure(error))
                continue
            if mine:
                return Attempt(sample, failures)
        return Attempt(None, failures, exhausted=True)

    def _without_share(self) -> ValueError:
        return ValueError(f"{type(self.stream.dataset).__name__} has no sample for reader {self.index} of {self.count} "
                          "(processes times workers); set a smaller num_workers, or train on more samples.")

    def _refuse_generator(self, error: DataError) -> None:
        if inspect.isgenerator(self.iterator):
            # every pass would end here and the samples behind would never be seen
            raise ValueError(f"{type(self.stream.dataset).__name__} is iterated by a generator, which an "
                             "unreadable file ends; skip such files in it, or return an iterator object "
                             "whose __next__ can be called again.") from error

    def _is_mine(self, number: int) -> bool:
        return self.told or number % self.count == self.index

    def _advance(self) -> tuple[dict[str, Any], bool]:
        number = self.read
        with seeded(mix(self.stream.seed, "pass", self.passes, number)):
            self.read += 1
            return next(self.iterator), self._is_mine(number)

    def _inner(self) -> Any:
        for holder in (self.iterator, self.stream.dataset):
            if hasattr(holder, "state_dict") and hasattr(holder, "load_state_dict"):
                return holder
        return None

    def state_dict(self) -> dict[str, Any]:
        """Which pass, how many samples of it were read, and the dataset's own state."""
        inner = self._inner()
        return {"passes": self.passes, "read": self.read, "inner": inner and inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was saved."""
        self.passes, self.read = state["passes"], 0
        if self._inner() is self.stream.dataset:
            self.stream.dataset.load_state_dict(state["inner"])
        self._begin()
        if state["inner"] is not None:
            if self._inner() is self.iterator:
                self.iterator.load_state_dict(state["inner"])
            self.read = state["read"]
            return
        while self.read < state["read"]:
            try:
                self._advance()
            except DataError:  # it was counted when it was first met
                continue
            except StopIteration:
                break

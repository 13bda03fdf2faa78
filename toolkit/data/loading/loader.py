"""The loaders of training and validation, on torchdata's StatefulDataLoader: a batch depends on its position alone."""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from toolkit.data.loading.sampling import Batch, Fetched, MapSamples, Source, batches_in_order, collate, endless_batches
from toolkit.data.loading.streams import StreamSamples
from toolkit.data.loading.unreadable import UnreadableFiles
from toolkit.data.loading.workers import ignore_outside_signals, read_batches
from toolkit.data.seeding import mix

logger = logging.getLogger(__name__)


class _Loader:
    """What both loaders have in common: their sources, this process, and its unreadable files."""

    def __init__(self, sources: Sequence[Source], *, rank: int = 0, world_size: int = 1,
                 max_unreadable_share: float = 1.0, report: str | os.PathLike | None = None, pin_memory: bool = False):
        if not 0 <= rank < world_size:
            raise ValueError(f"{type(self).__name__} takes rank in [0, world_size), got {rank} of {world_size}.")
        self.sources, self.rank, self.world_size = list(sources), rank, world_size
        self.unreadable_files = UnreadableFiles(max_share=max_unreadable_share, report=report)
        self.pin_memory = pin_memory

    @property
    def unreadable(self) -> dict[str, str]:
        """path -> error message of every file that this process could not read so far."""
        return self.unreadable_files.reasons

    def _loader(self, source: Source, batches: Iterator[list[tuple[int, int]]], *, seed: int,
                endless: bool) -> StatefulDataLoader:
        """The loader of a source; ``batches`` are the (index, sample seed) to read if it is map-style."""
        if source.is_iterable:
            dataset = StreamSamples(source.dataset, seed=seed, rank=self.rank, world_size=self.world_size,
                                    endless=endless)
            order = {"batch_size": source.batch_size}
        else:
            dataset, order = MapSamples(source.dataset, replace=endless), {"batch_sampler": batches}
        # with its own generator: otherwise each new iterator would draw a seed from the global one
        return StatefulDataLoader(dataset, num_workers=source.num_workers, collate_fn=collate,
                                  pin_memory=self.pin_memory, generator=torch.Generator().manual_seed(seed),
                                  worker_init_fn=ignore_outside_signals if source.num_workers else None, **order)

    def _counted(self, source: Source, fetched: Fetched) -> Batch:
        self.unreadable_files.add(fetched.failures, num_readable=len(fetched.keys))
        return Batch(fetched.pixels, fetched.keys, source.dataset.modality, [reason for _, reason in fetched.failures])


class TrainLoader(_Loader, Iterator[Batch]):
    """Endless batches from a weighted mixture of sources.

    All processes read from the same source in the same step. Map-style sources are read in one permutation per epoch,
    split over the processes without repetition; unreadable samples are replaced by others of the source. A sample's
    random numbers depend on its position only, not on the number of workers.

    Too many unreadable samples, or a lost worker, raise a DataError while iterating.

    Args:
        seed: The same on all processes.
        rank, world_size: Number of this process, and of all.
        batches_per_choice: Consecutive batches from one source (gradient accumulation).
        max_unreadable_share: Largest share of unreadable samples among those tried (counted as at least
            200); 0 tolerates none. A sample that fails 32 times in a row ends reading at once.
        report: A text file that gets one line per unreadable file.
        pin_memory: Put batches in page-locked memory, for fast copies to a GPU.

    Example:
        >>> from toolkit.data import VideoClips
        >>> clips = VideoClips(num_frames=5, size=32)   # the sample clips
        >>> loader = TrainLoader([Source(clips, batch_size=2)], seed=0)
        >>> next(loader).pixels.shape
        torch.Size([2, 3, 5, 32, 32])
    """

    def __init__(self, sources: Sequence[Source], *, seed: int, rank: int = 0, world_size: int = 1,
                 batches_per_choice: int = 1, max_unreadable_share: float = 0.05,
                 report: str | os.PathLike | None = None, pin_memory: bool = False):
        super().__init__(sources, rank=rank, world_size=world_size, max_unreadable_share=max_unreadable_share,
                         report=report, pin_memory=pin_memory)
        weights = [source.weight for source in sources]
        if not any(weights) or batches_per_choice < 1:
            raise ValueError("TrainLoader takes sources with a positive weight and batches_per_choice >= 1, got "
                             f"weights {weights} and {batches_per_choice}.")
        self.seed, self.batches_per_choice = seed, batches_per_choice
        self._cumulative_weights = list(accumulate(weights))
        self._reset()

    def _reset(self) -> None:
        self._draws = 0
        self._positions = [0] * len(self.sources)  # samples read by all processes together; map-style sources
        self._stream_states: list[dict | None] = [None] * len(self.sources)
        self._loaders: dict[int, StatefulDataLoader] = {}
        self._iterators: dict[int, Iterator[Fetched]] = {}

    def __next__(self) -> Batch:
        # drawn by weight, and a function of the seed and the number of draws
        fraction = mix(self.seed, "choice", self._draws // self.batches_per_choice) / 2**63
        number = bisect_right(self._cumulative_weights, fraction * self._cumulative_weights[-1])
        source = self.sources[number]
        if number not in self._iterators:
            seed = mix(self.seed, "source", number)
            batches = endless_batches(source, seed=seed, rank=self.rank, world_size=self.world_size,
                                      start=self._positions[number])
            self._loaders[number] = self._loader(source, batches, seed=seed, endless=True)
            if self._stream_states[number] is not None:
                self._loaders[number].load_state_dict(self._stream_states[number])
            self._iterators[number] = read_batches(self._loaders[number])
        fetched = next(self._iterators[number])
        self._draws += 1
        self._positions[number] += source.batch_size * self.world_size
        batch = self._counted(source, fetched)
        if len(batch.keys) < source.batch_size:
            raise self.unreadable_files.error("and one had no readable replacement; check the files")
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches returned so far, whatever workers have prefetched.

        For map-style sources it is the same on all processes, and may be loaded with another number of workers or
        processes or another batch size. Iterable sources save one state per process, and resume with the same numbers.
        """
        streams = [self._loaders[number].state_dict() if source.is_iterable and number in self._loaders else
                   self._stream_states[number] for number, source in enumerate(self.sources)]
        files = self.unreadable_files
        return {"draws": self._draws, "positions": list(self._positions), "streams": streams,
                "extents": self._extents(), "num_tried": files.num_tried, "num_unreadable": files.num_unreadable,
                "unreadable": dict(files.reasons)}

    def _extents(self) -> list[int | tuple[int, int]]:
        """Numbers that the order of samples depends on: of samples, or of (processes, workers) for iterable sources."""
        return [(self.world_size, source.num_workers) if source.is_iterable else len(source.dataset)
                for source in self.sources]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was saved; a changed number of samples is logged.

        Another number of sources, or of processes or workers of an iterable source, raises a ValueError.
        """
        if len(state["positions"]) != len(self.sources):
            raise ValueError(f"the saved position is of {len(state['positions'])} sources, this loader has "
                             f"{len(self.sources)}; resume with the data config of the run.")
        extents = zip(self.sources, state["extents"], self._extents(), strict=True)
        for number, (source, saved, current) in enumerate(extents):
            name = f"source {number}, {type(source.dataset).__name__},"
            if saved != current and not source.is_iterable:
                logger.warning("%s has %s samples now and had %s when the position was saved: they come in another "
                               "order from here on, so the run is not the one that it would have been without "
                               "interruption.", name, current, saved)
            elif saved != current and state["streams"][number] is not None:
                raise ValueError(f"{name} was read by {saved[0]} processes with num_workers={saved[1]}, got "
                                 f"{current[0]} with num_workers={current[1]}; its position is valid for the same "
                                 "numbers only, so resume with them.")
        self._reset()
        self._draws, self._positions = state["draws"], list(state["positions"])
        self._stream_states = list(state["streams"])
        files = self.unreadable_files
        files.num_tried, files.num_unreadable = state["num_tried"], state["num_unreadable"]
        files.reasons = dict(state["unreadable"])


class ValLoader(_Loader):
    """Every sample once, in order, over all processes; each iteration starts over.

    Rank r of n reads the samples r, r + n, ... of each source in turn. As no sample is repeated, processes may have
    different numbers of batches: no collective may run per batch. Unreadable samples are skipped and counted.

    The sources' weights are ignored; the other arguments are those of :class:`TrainLoader`, and any share of unreadable
    samples is tolerated by default. A source without a readable sample, or a lost worker, raises a DataError while
    iterating.

    Example:
        >>> from toolkit.data import VideoClips
        >>> clips = VideoClips(num_frames=5, size=32, train=False, clips_per_video=3)
        >>> [batch.pixels.shape[0] for batch in ValLoader([Source(clips, batch_size=2)])]
        [2, 1]
    """

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self.sources)):
            yield from self._read(number)

    def of(self, modality: str) -> Iterator[Batch]:
        """A pass over the sources of one modality."""
        for number, source in enumerate(self.sources):
            if source.dataset.modality == modality:
                yield from self._read(number)

    def _read(self, number: int) -> Iterator[Batch]:
        source, seed, num_readable, num_unreadable = self.sources[number], mix("validation", number), 0, 0
        batches = batches_in_order(source, seed=seed, rank=self.rank, world_size=self.world_size)
        for fetched in read_batches(self._loader(source, batches, seed=seed, endless=False)):
            batch = self._counted(source, fetched)
            num_readable, num_unreadable = num_readable + len(batch.keys), num_unreadable + len(batch.unreadable)
            if batch.keys:
                yield batch
        if num_unreadable and not num_readable:
            raise self.unreadable_files.error(f"all of source {number}; check its files")

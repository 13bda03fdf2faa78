"""The loaders of training and validation, on torchdata's StatefulDataLoader.

A batch is a function of (seed, source, position). Batches that workers have read ahead but training
has not taken are not part of the position, so nothing is lost or repeated when a run resumes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from toolkit.data.loading.mixture import Mixture, Source
from toolkit.data.loading.sampling import Batch, EndlessBatches, Fetched, MapSamples, collate, mix
from toolkit.data.loading.streams import StreamSamples
from toolkit.data.loading.unreadable import Faults
from toolkit.data.loading.workers import lost_workers_named, shield, started

logger = logging.getLogger(__name__)


def _options(source: Source, *, seed: int, pin_memory: bool) -> dict[str, Any]:
    # its own generator: else every new iterator would draw a seed from the global one
    return {"num_workers": source.num_workers, "collate_fn": collate, "pin_memory": pin_memory,
            "worker_init_fn": shield if source.num_workers else None,
            "generator": torch.Generator().manual_seed(seed)}


class TrainLoader:
    """Endless batches from a weighted mixture of sources.

    Every process draws from the same source in the same step. Map-style sources are read in one
    permutation per epoch, shared out over the processes without repetition; unreadable samples
    are replaced by others of the source. A sample's random draws follow from its position alone,
    not from the number of workers.

    Args:
        sources: What to draw from.
        seed: The same on all processes.
        rank, world_size: This process among all.
        draws_per_choice: Batches that stay with one source (gradient accumulation).
        max_unreadable_share: Share of unreadable samples, among those tried (counted as at least
            200), above which reading stops; 0 stops at the first. A sample for which 32 tries in
            a row fail stops it at once.
        report: A text file that gets one line per unreadable file.
        pin_memory: Put batches in page-locked memory, for fast copies to a GPU.

    Attributes:
        unreadable: path -> reason, of this process.

    Raises:
        DataError: While iterating, if too many samples are unreadable, or a worker is lost.

    Example:
        >>> from toolkit.data import VideoClips
        >>> clips = VideoClips(num_frames=5, size=32)   # the sample clips
        >>> loader = TrainLoader([Source(clips, batch_size=2)], seed=0)
        >>> next(loader).pixels.shape
        torch.Size([2, 3, 5, 32, 32])
        >>> state = loader.state_dict()
        >>> batch = next(loader)
        >>> loader.load_state_dict(state)
        >>> torch.equal(next(loader).pixels, batch.pixels)
        True
    """

    def __init__(self, sources: Sequence[Source], *, seed: int, rank: int = 0, world_size: int = 1,
                 draws_per_choice: int = 1, max_unreadable_share: float = 0.05,
                 report: str | os.PathLike | None = None, pin_memory: bool = False):
        if not 0 <= rank < world_size:
            raise ValueError(f"TrainLoader takes rank in [0, world_size), got {rank} of {world_size}.")
        self.sources, self.seed, self.rank, self.world_size = list(sources), seed, rank, world_size
        self.mixture = Mixture([source.weight for source in self.sources], seed=seed,
                               draws_per_choice=draws_per_choice)
        self.faults = Faults(max_share=max_unreadable_share, report=report)
        self.pin_memory = pin_memory
        self._reset()

    def _reset(self) -> None:
        self._draws = 0
        self._positions = [0] * len(self.sources)  # of all processes together; map-style sources
        self._stream_states: list[dict | None] = [None] * len(self.sources)
        self._loaders: list[StatefulDataLoader | None] = [None] * len(self.sources)
        self._iterators: list[Iterator[Fetched] | None] = [None] * len(self.sources)

    @property
    def unreadable(self) -> dict[str, str]:
        """path -> reason of every file that could not be read so far, by this process."""
        return self.faults.unreadable

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> Batch:
        number = self.mixture.choice(self._draws)
        if self._iterators[number] is None:
            self._loaders[number] = self._loader(number)
            self._iterators[number] = started(self._loaders[number])
        source = self.sources[number]
        with lost_workers_named(num_workers=source.num_workers):
            fetched = next(self._iterators[number])
        self._draws += 1
        self._positions[number] += source.batch_size * self.world_size
        self.faults.add(failures=fetched.failures, tried=fetched.tried)
        self.faults.check()
        if fetched.exhausted or fetched.pixels is None:
            raise self.faults.error("and one had no readable replacement; check the files")
        return Batch(fetched.pixels, fetched.keys, source.dataset.modality,
                     [reason for _, reason in fetched.failures])

    def _loader(self, number: int) -> StatefulDataLoader:
        source, seed = self.sources[number], mix(self.seed, "source", number)
        options = _options(source, seed=seed, pin_memory=self.pin_memory)
        if source.is_iterable:
            stream = StreamSamples(source.dataset, seed=seed, rank=self.rank, world_size=self.world_size)
            loader = StatefulDataLoader(stream, batch_size=source.batch_size, **options)
            if self._stream_states[number] is not None:
                loader.load_state_dict(self._stream_states[number])
            return loader
        batches = EndlessBatches(len(source.dataset), batch_size=source.batch_size, seed=seed, rank=self.rank,
                                 world_size=self.world_size, start=self._positions[number])
        return StatefulDataLoader(MapSamples(source.dataset, replace=True), batch_sampler=batches, **options)

    def state_dict(self) -> dict[str, Any]:
        """The position, after the batches handed out so far.

        For map-style sources it is the same on all processes, and may be loaded with another number
        of workers, of processes or another batch size. Iterable sources save their own state per
        process, and resume with the same numbers only.
        """
        loaders = zip(self.sources, self._loaders, self._stream_states, strict=True)
        streams = [loader.state_dict() if source.is_iterable and loader is not None else state
                   for source, loader, state in loaders]
        return {"draws": self._draws, "positions": list(self._positions), "streams": streams,
                "extents": self._extents(),
                "num_tried": self.faults.num_tried, "num_unreadable": self.faults.num_unreadable,
                "unreadable": dict(self.unreadable)}

    def _extents(self) -> list[int | tuple[int, int]]:
        """What the order of a source's samples depends on: how many there are, or (processes, workers of each)."""
        return [(self.world_size, source.num_workers) if source.is_iterable else len(source.dataset)
                for source in self.sources]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was saved; that a source has another number of samples now, is logged.

        Raises:
            ValueError: If it was saved with another number of sources, or a position in an iterable source with
                another number of processes or workers.
        """
        if len(state["positions"]) != len(self.sources):
            raise ValueError(f"the saved position is of {len(state['positions'])} sources, this loader has "
                             f"{len(self.sources)}; resume with the data config of the run.")
        for number, (had, have) in enumerate(zip(state["extents"], self._extents(), strict=True)):
            if had != have:
                self._compare(number, had, have, read=state["streams"][number] is not None)
        self._reset()
        self._draws, self._positions = state["draws"], list(state["positions"])
        self._stream_states = list(state["streams"])
        self.faults.num_tried, self.faults.num_unreadable = state["num_tried"], state["num_unreadable"]
        self.faults.unreadable = dict(state["unreadable"])

    def _compare(self, number: int, had: Any, have: Any, *, read: bool) -> None:
        name = f"source {number}, {type(self.sources[number].dataset).__name__},"
        if not self.sources[number].is_iterable:
            logger.warning("%s has %s samples now and had %s when the position was saved: they come in another order "
                           "from here on, and the run is no longer the one that it would have been undisturbed.",
                           name, have, had)
        elif read:
            raise ValueError(f"{name} was read by {had[0]} processes with num_workers={had[1]}, got {have[0]} with "
                             f"num_workers={have[1]}; its position holds for these numbers only, so resume with them.")


class ValLoader:
    """Every sample once, in order, over all processes; each iteration starts over.

    Rank r of n reads the samples r, r + n, ... of each source in turn. Nothing is repeated to even
    out the processes, so their numbers of batches may differ: no collective may run per batch.
    Unreadable samples are left out and counted.

    Args:
        sources: What to read, weights ignored.
        rank, world_size: This process among all.
        report: A text file that gets one line per unreadable file.
        pin_memory: Put batches in page-locked memory.

    Attributes:
        unreadable: path -> reason, of this process.

    Raises:
        DataError: While iterating, if no sample of a source could be read, or a worker is lost.

    Example:
        >>> from toolkit.data import VideoClips
        >>> clips = VideoClips(num_frames=5, size=32, train=False, clips_per_video=3)
        >>> [batch.pixels.shape[0] for batch in ValLoader([Source(clips, batch_size=2)])]
        [2, 1]
    """

    def __init__(self, sources: Sequence[Source], *, rank: int = 0, world_size: int = 1,
                 report: str | os.PathLike | None = None, pin_memory: bool = False):
        if not 0 <= rank < world_size:
            raise ValueError(f"ValLoader takes rank in [0, world_size), got {rank} of {world_size}.")
        self.sources, self.rank, self.world_size = list(sources), rank, world_size
        self.faults = Faults(max_share=1.0, report=report)
        self.pin_memory = pin_memory

    @property
    def unreadable(self) -> dict[str, str]:
        """path -> reason of every file that could not be read so far, by this process."""
        return self.faults.unreadable

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self.sources)):
            yield from self._read(number)

    def of(self, modality: str) -> Iterator[Batch]:
        """A pass over the sources of one modality, the others untouched."""
        for number, source in enumerate(self.sources):
            if source.dataset.modality == modality:
                yield from self._read(number)

    def _read(self, number: int) -> Iterator[Batch]:
        source, readable, tried = self.sources[number], 0, 0
        with lost_workers_named(num_workers=source.num_workers):
            for fetched in started(self._loader(number)):
                self.faults.add(failures=fetched.failures, tried=fetched.tried)
                tried += fetched.tried
                if fetched.pixels is not None:
                    readable += len(fetched.keys)
                    yield Batch(fetched.pixels, fetched.keys, source.dataset.modality,
                                [reason for _, reason in fetched.failures])
        if tried and not readable:
            raise self.faults.error(f"all of source {number}; check its files")

    def _loader(self, number: int) -> StatefulDataLoader:
        source, seed = self.sources[number], mix("validation", number)
        options = _options(source, seed=seed, pin_memory=self.pin_memory)
        if source.is_iterable:
            stream = StreamSamples(source.dataset, seed=seed, rank=self.rank,
                                   world_size=self.world_size, endless=False)
            return StatefulDataLoader(stream, batch_size=source.batch_size, **options)
        mine = [(index, mix(seed, "sample", index))
                for index in range(self.rank, len(source.dataset), self.world_size)]
        batches = [mine[i:i + source.batch_size] for i in range(0, len(mine), source.batch_size)]
        return StatefulDataLoader(MapSamples(source.dataset, replace=False), batch_sampler=batches, **options)

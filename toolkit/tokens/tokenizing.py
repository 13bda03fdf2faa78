"""Samples to tokens in order, while threads read the next samples, and a bar that shows the progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from rich import progress as rich
from torch import Tensor

from toolkit.contracts import DataError
from toolkit.data.reading.files import unreadable
from toolkit.data.reading.media import MAX_FRAMES, Media, frames_per_chunk, open_media
from toolkit.io.prefetch import prefetch
from toolkit.io.progress import TerminalBar
from toolkit.tokenizer import Tokenizer
from toolkit.tokens.plan import Input

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Progress:
    """Progress of one process."""

    num_shards: int  # to do in this call
    shards: float = 0.0  # done, with the fraction of the current one
    share: float = 0.0  # the fraction of the current shard that one file is; 0 if it is not known
    frames: int = 0  # done; an image is one
    waited: float = 0.0  # seconds that the network waited for frames
    on_advance: Callable[[Progress], None] | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    def advance(self, *, frames: int, files: float) -> None:
        """Add finished frames and files (fractions of a file too)."""
        self.frames += frames
        self.shards += files * self.share
        if self.on_advance is not None:
            self.on_advance(self)

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; the time until each arrives is added to :attr:`waited`."""
        while True:
            started = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - started
            yield item


@contextmanager
def progress_bar(*, visible: bool = True) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr if that is a terminal and it is ``visible``; pass what it yields as ``on_progress``.

    Example:
        >>> with progress_bar() as show:
        ...     show(Progress(num_shards=2, shards=0.5, frames=100))
    """
    bar = TerminalBar(rich.BarColumn(), rich.TaskProgressColumn(), rich.TextColumn("{task.description}"),
                      rich.TimeRemainingColumn(), visible=visible)
    task = bar.add_task("", total=None)

    def show(progress: Progress) -> None:
        seconds = progress.seconds or 1.0
        bar.update(task, total=progress.num_shards, completed=progress.shards, description=(
            f"{int(progress.shards)}/{progress.num_shards} shards, {progress.frames} frames, "
            f"{progress.frames / seconds:.3g} per second, {progress.waited / seconds:.0%} waiting for files"))

    with bar:
        yield show


@dataclass
class Tokens:
    """A sample whose tokens are computed while :attr:`chunks` is iterated."""

    sample: Input
    media: Media | None  # its sizes and frame rate; None if it cannot be opened
    chunks: Iterator[np.ndarray]  # its indices (*positions, G), cut along the first axis; a DataError if unreadable
    num_frames: int = 0  # in the chunks so far


class Tokenizing:
    """A tokenizer with threads that read for it; the arguments are those of ``extract_tokens``."""

    def __init__(self, tokenizer: Tokenizer, *, progress: Progress, short_edge: int | None = None,
                 num_frames: int | None = None, frame_stride: int = 1, batch_size: int = 1, num_workers: int = 4):
        self.tokenizer, self.progress = tokenizer, progress
        self.short_edge, self.num_frames, self.frame_stride = short_edge, num_frames, frame_stride
        self.batch_size, self.num_workers = batch_size, num_workers
        self.streams = tokenizer.why_not_streamed is None
        self.device = tokenizer.decoder.last_layer.device
        self.dtype = np.int32 if tokenizer.codebook_size <= 2**31 else np.int64

    def __call__(self, samples: Iterable[Input | None]) -> Iterator[Tokens | None]:
        """Tokens of each sample in order, whose chunks must be used up before the next sample.

        ``samples`` is iterated in threads. None ends a shard and is yielded too: no batch crosses it, but reading
        ahead does.
        """
        images: list[tuple[Tokens, Tensor]] = []
        with closing(prefetch(samples, self._read, num_workers=self.num_workers,
                                num_ahead=2 * self.batch_size)) as coming:
            for sample, pieces in self.progress.waiting(coming):
                pieces = self.progress.waiting(pieces)
                try:
                    media = next(pieces, None)
                    image = next(pieces) if media is not None and media.fps is None else None
                except DataError as error:
                    yield Tokens(sample, None, _raising(error))
                    continue
                if images and (image is None or media.size != images[0][0].media.size):
                    yield from self._images(images)
                    images = []
                if media is None:
                    yield None
                elif image is None:
                    tokens = Tokens(sample, media, iter(()))
                    tokens.chunks = self._video(tokens, pieces)
                    yield tokens
                else:
                    images.append((Tokens(sample, media, iter(())), image))
                    if len(images) == self.batch_size:
                        yield from self._images(images)
                        images = []

    def _read(self, sample: Input | None) -> Iterator[Media | Tensor]:
        """The media of a sample, then its chunks (3, T, H, W); runs in a thread."""
        if sample is None:
            return
        if isinstance(sample.content, DataError):
            raise sample.content
        limit = self.num_frames if self.streams or self.num_frames is not None else MAX_FRAMES
        with open_media(sample.content, name=sample.source, num_frames=limit, frame_stride=self.frame_stride,
                        short_edge=self.short_edge) as media:
            try:
                self.tokenizer.grid((max(1, media.num_frames), *media.size))
            except ValueError as error:  # of a network that takes some sizes only
                raise unreadable(sample.source, str(error)) from error
            yield media
            yield from media.chunks(frames_per_chunk(*media.size, stride_t=self.tokenizer.stride[0]))
        if media.more and self.num_frames is None:
            logger.warning("%s: only the first %d frames are used; it has more, but %s.", sample.source, limit,
                           self.tokenizer.why_not_streamed)

    def _images(self, images: list[tuple[Tokens, Tensor]]) -> Iterator[Tokens]:
        batch = torch.stack([pixels for _, pixels in images]).to(self.device)
        for (tokens, _), indices in zip(images, self._numbers(self.tokenizer.tokenize(batch)), strict=True):
            tokens.chunks, tokens.num_frames = iter([indices]), 1
            self.progress.advance(frames=1, files=1.0)
            yield tokens

    def _video(self, tokens: Tokens, pieces: Iterator[Tensor]) -> Iterator[np.ndarray]:
        def clips() -> Iterator[Tensor]:
            for piece in pieces:
                tokens.num_frames += piece.shape[1]
                yield piece[None].to(self.device)
                self.progress.advance(frames=piece.shape[1],
                                      files=piece.shape[1] / max(tokens.media.num_frames, tokens.num_frames))

        chunks = (self.tokenizer.tokenize_stream(clips()) if self.streams else
                  [self.tokenizer.tokenize(torch.cat(list(clips()), dim=2))])
        for indices in chunks:
            yield self._numbers(indices)[0]

    def _numbers(self, indices: Tensor) -> np.ndarray:
        return indices.cpu().numpy().astype(self.dtype)


def _raising(error: DataError) -> Iterator[np.ndarray]:
    raise error
    yield

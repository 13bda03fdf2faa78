"""Samples to tokens, in their order, while threads read the next ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from toolkit.contracts import DataError
from toolkit.data.reading.media import MAX_FRAMES, Media, frames_per_chunk, open_media
from toolkit.io.prefetch import prefetch
from toolkit.tokenizer import Tokenizer
from toolkit.tokens.plan import Input

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Progress:
    """How far a process is.

    Attributes:
        num_shards: That it has to do; those that were there before are none.
        shards: That are done, with the fraction of the one under way.
        share: The fraction of the shard under way that a file is; 0 if nobody knows.
        frames: That are done; an image is one.
        waited: Seconds that the network waited for frames.
        seconds: Since it began.

    Example:
        >>> progress = Progress(num_shards=2, share=0.5)
        >>> progress.advance(frames=5, files=0.5)
        >>> progress.frames, progress.shards
        (5, 0.25)
    """

    num_shards: int
    shards: float = 0.0
    share: float = 0.0
    frames: int = 0
    waited: float = 0.0
    on_advance: Callable[[Progress], None] | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.started

    def advance(self, *, frames: int, files: float) -> None:
        """So many more are done."""
        self.frames += frames
        self.shards += files * self.share
        if self.on_advance is not None:
            self.on_advance(self)

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; the time until each is there is counted as waited."""
        end = object()
        while True:
            started = time.perf_counter()
            item = next(items, end)
            self.waited += time.perf_counter() - started
            if item is end:
                return
            yield item


@dataclass
class Tokens:
    """A sample whose tokens are made while they are taken.

    Attributes:
        sample: What was read.
        media: Its sizes and rate; None if it cannot be opened.
        chunks: Its indices (t, ..., G), in pieces along the first axis; a DataError if it cannot be read.
        num_frames: Frames that went into the chunks taken so far.
    """

    sample: Input
    media: Media | None
    chunks: Iterator[np.ndarray]
    num_frames: int = 0


class Tokenizing:
    """A tokenizer with threads that read for it.

    Args:
        tokenizer: In eval mode; the work is done on its device.
        short_edge, num_frames, frame_stride, batch_size, num_workers: As :func:`toolkit.tokens.extract_tokens`'s.
        progress: Kept up to date.

    Example:
        >>> from pathlib import Path
        >>> from toolkit import build_tokenizer, load_config
        >>> from toolkit.data import sample_clips
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> tokenizing = Tokenizing(tokenizer, progress=Progress(num_shards=1), short_edge=32, num_frames=6)
        >>> for tokens in tokenizing([Input("a.mp4", "a", Path(sample_clips("eval")[0]))]):
        ...     print([chunk.shape for chunk in tokens.chunks], tokens.num_frames)
        [(2, 4, 5, 1), (1, 4, 5, 1)] 6
    """

    def __init__(self, tokenizer: Tokenizer, *, progress: Progress, short_edge: int | None = None,
                 num_frames: int | None = None, frame_stride: int = 1, batch_size: int = 1, num_workers: int = 4):
        self.tokenizer, self.progress = tokenizer, progress
        self.short_edge, self.num_frames, self.frame_stride = short_edge, num_frames, frame_stride
        self.batch_size, self.num_workers = batch_size, num_workers
        self.streams = tokenizer.why_not_streamed is None
        self.device = tokenizer.decoder.last_layer.device
        self.dtype = np.int32 if tokenizer.codebook_size <= 2**31 else np.int64

    def __call__(self, samples: Iterable[Input | None]) -> Iterator[Tokens | None]:
        """Tokens of each sample, in order; their chunks are to be used up before the next.

        Args:
            samples: Drawn from in threads. None, which is given back, ends a shard: no batch goes beyond it, but
                reading does.
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
                    yield Tokens(sample, None, _unread(error))
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
        """What is known of a sample, then its chunks (3, T, H, W); runs in a thread."""
        if sample is None:
            return
        if isinstance(sample.content, DataError):
            raise sample.content
        limit = self.num_frames if self.streams or self.num_frames is not None else MAX_FRAMES
        with open_media(sample.content, name=sample.source, num_frames=limit, frame_stride=self.frame_stride,
                        short_edge=self.short_edge) as media:
            yield media
            yield from media.chunks(frames_per_chunk(*media.size, stride_t=self.tokenizer.stride[0]))
        if media.more and self.num_frames is None:
            logger.warning("%s: the first %d frames are taken; it has more, but %s.", sample.source, limit,
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

        found = (self.tokenizer.tokenize_stream(clips()) if self.streams else
                 [self.tokenizer.tokenize(torch.cat(list(clips()), dim=2))])
        for indices in found:
            yield self._numbers(indices)[0]

    def _numbers(self, indices: Tensor) -> np.ndarray:
        return indices.cpu().numpy().astype(self.dtype)


def _unread(error: DataError) -> Iterator[np.ndarray]:
    raise error
    yield

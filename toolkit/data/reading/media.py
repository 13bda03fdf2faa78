"""Images and videos alike, opened once and read in chunks of frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from toolkit.data.datasets.images import IMAGE_SUFFIXES, read_image, write_image
from toolkit.data.reading.files import about, unreadable
from toolkit.data.reading.transforms import check_enlargement, resize, to_frames, to_pixels
from toolkit.data.reading.video_file import VIDEO_SUFFIXES, VideoFile, rgb
from toolkit.data.reading.video_io import VideoWriter, check_size

CHUNK_PIXELS, CHUNK_FRAMES = 2**21, 32  # of a chunk, at most: two frames of 720p, 32 of 256 x 256
MAX_FRAMES = 65  # of a video that is held as a whole, where nobody says how many: 1 + 16 * 4, about two seconds

T = TypeVar("T")


def frames_per_chunk(height: int, width: int, *, stride_t: int = 1) -> int:
    """How many frames a chunk of a stream has, so that its memory is bounded whatever their size.

    Args:
        height, width: Of a frame.
        stride_t: Frames per position of the tokenizer; a chunk of more is a multiple of it.

    Example:
        >>> frames_per_chunk(720, 1280, stride_t=4), frames_per_chunk(240, 416, stride_t=4), frames_per_chunk(64, 64)
        (2, 20, 32)
    """
    frames = max(1, min(CHUNK_FRAMES, CHUNK_PIXELS // (height * width)))
    return frames - frames % stride_t if frames > stride_t else frames


class Media(AbstractContextManager):
    """An open image or video, whose frames are read once and in order; :func:`open_media` makes it.

    Attributes:
        name: Of the file, as errors have it.
        original_size: (H, W) of the file's frames, upright.
        size: (H, W) after the resize.
        fps: Frames per second of the frames that are read; None for an image.
        num_frames: How many frames there will be; an estimate where the file does not count them.
        more: After reading, whether the file has frames beyond those that were asked for.
    """

    def __init__(self, frames: Iterator[Tensor], *, name: str, fps: float | None, num_frames: int,
                 limit: int | None, short_edge: int | None, file: VideoFile | None = None):
        self.name, self.fps, self.more, self._limit, self._file = name, fps, False, limit, file
        self._reading: Iterator[Tensor] | None = None
        first = next(frames, None)
        if first is None:
            raise unreadable(name, "needed at least one frame, got none; check the file or leave it out.")
        self._frames = chain([first], frames)
        self.num_frames = max(1, min(num_frames, limit or num_frames))
        self.original_size = height, width = tuple(first.shape[:2])
        scale = 1.0 if short_edge is None else short_edge / min(height, width)
        self.size = round(height * scale), round(width * scale)
        with about(name):
            check_enlargement(height, width, resized=self.size, wanted=short_edge or 0)

    def chunks(self, frames: int) -> Iterator[Tensor]:
        """The frames, the next chunk being decoded while the caller works on one.

        Args:
            frames: How many make a chunk; the last may have fewer.

        Yields:
            (3, T, H, W) float32 in [-1, 1].

        Raises:
            DataError: If the rest of the file cannot be read.
            ValueError: If ``frames`` is below 1.
        """
        if frames < 1:
            raise ValueError(f"Media.chunks takes chunks of at least 1 frame, got {frames}.")
        self._reading = ahead(self._chunks(frames))
        yield from self._reading

    def _chunks(self, frames: int) -> Iterator[Tensor]:
        wanted = islice(self._frames, self._limit)
        while taken := list(islice(wanted, frames)):
            check_size(taken, path=self.name)
            if tuple(taken[0].shape[:2]) != self.original_size:
                raise unreadable(self.name, f"needed frames of one size, got {self.original_size} and "
                                            f"{tuple(taken[0].shape[:2])}; re-encode it.")
            yield to_pixels(resize(taken, size=self.size))
        self.more = next(self._frames, None) is not None

    def __exit__(self, *error: object) -> None:
        if self._reading is not None:
            self._reading.close()  # a chunk may be under way in the other thread
        if self._file is not None:
            self._file.__exit__(*error)


def open_media(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None,
               num_frames: int | None = None, frame_stride: int = 1, short_edge: int | None = None) -> Media:
    """Open an image or a video to read it chunk by chunk, in memory that does not grow with its length.

    Args:
        source: The file, or all of its bytes. Its ending says which it is; an animated GIF is a video.
        name: Of a source of bytes, and what errors call it.
        num_frames: Frames to read at most; None: all.
        frame_stride: Take every so many-th frame.
        short_edge: Resize the shorter side to so many pixels; None: leave it.

    Raises:
        DataError: If the file cannot be read, here or in its middle.
        ValueError: If a number is below 1, or bytes have no name.

    Example:
        >>> from toolkit.data import sample_clips
        >>> with open_media(sample_clips("eval")[0], num_frames=5, frame_stride=2, short_edge=72) as media:
        ...     media.original_size, media.fps, [tuple(chunk.shape) for chunk in media.chunks(3)], media.more
        ((144, 176), 14.985014985014985, [(3, 3, 72, 88), (3, 2, 72, 88)], True)
    """
    if min(frame_stride, *(n for n in (num_frames, short_edge) if n is not None), 1) < 1:
        raise ValueError("open_media takes num_frames, frame_stride and short_edge of at least 1, got "
                         f"{num_frames}, {frame_stride} and {short_edge}.")
    if name is None and isinstance(source, bytes):
        raise ValueError("open_media needs the name of what is given as bytes: its ending says how to read it.")
    name = os.fspath(name or source)
    suffix = Path(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix not in VIDEO_SUFFIXES:
        frame = to_frames(read_image(source, name=name))[0]
        return Media(iter([frame]), name=name, fps=None, num_frames=1, limit=num_frames, short_edge=short_edge)
    video = VideoFile(source, name=name, thread_type="AUTO")
    frames = (rgb(frame) for frame in islice(video.frames_at(0), 0, None, frame_stride))
    return Media(frames, name=name, fps=video.info.fps / frame_stride, limit=num_frames, short_edge=short_edge,
                 num_frames=-(-video.info.num_frames // frame_stride), file=video)


class MediaWriter(AbstractContextManager):
    """An image or a video, as the frames turn out to be: ``path``.png of one, ``path``.mp4 of more.

    The file has its name when the block ends well; after an error there is none.

    Args:
        path: Folder and name without an ending; the folder must exist.
        fps: Frames per second of a video.

    Raises:
        ValueError: At the end, if nothing was written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, lengths in {"a": [1], "b": [1, 1, 4]}.items():
        ...     with MediaWriter(folder / name, fps=25) as media:
        ...         for length in lengths:
        ...             media.write(torch.zeros(3, length, 8, 6))
        >>> sorted(file.name for file in folder.iterdir())
        ['a.png', 'b.mp4']
    """

    def __init__(self, path: str | os.PathLike, *, fps: float | None):
        self._image, self._held = f"{os.fspath(path)}.png", None
        self._video = VideoWriter(f"{os.fspath(path)}.mp4", fps=fps)

    def write(self, pixels: Tensor) -> None:
        """Add the next frames (3, T, H, W) of about [-1, 1], clamped; a single first one is kept until more come."""
        if self._held is not None:
            pixels, self._held = torch.cat([self._held, pixels], dim=1), None
        if pixels.shape[1] == 1 and not self._video.begun:
            self._held = pixels
        else:
            self._video.write(pixels)

    def __exit__(self, *error: object) -> None:
        if self._held is None:
            self._video.__exit__(*error)
        elif error[0] is None:
            write_image(self._image, self._held)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread of its own while the caller works on the one before.

    Example:
        >>> list(ahead(iter("abc")))
        ['a', 'b', 'c']
    """
    end = object()
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = worker.submit(next, items, end)
            yield item

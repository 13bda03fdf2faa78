"""Images and videos read in chunks of frames, and written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from toolkit.data.reading.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, path_in_errors, unreadable
from toolkit.data.reading.images import image_frame, write_image
from toolkit.data.reading.transforms import check_enlargement, resize, to_pixels
from toolkit.data.reading.video_file import VideoFile, check_one_size
from toolkit.data.reading.video_io import VideoWriter
from toolkit.io.prefetch import prefetch_next

CHUNK_PIXELS, CHUNK_FRAMES = 2**21, 32  # largest chunk: two frames of 720p, 32 of 256 x 256
MAX_FRAMES = 65  # default limit of a video that is held in memory: 1 + 16 * 4, about two seconds


def frames_per_chunk(height: int, width: int, *, stride_t: int = 1) -> int:
    """Frames per chunk of a stream, which bounds memory for any frame size.

    A chunk of more than ``stride_t`` frames (the tokenizer's temporal stride) is a multiple of it.
    """
    frames = max(1, min(CHUNK_FRAMES, CHUNK_PIXELS // (height * width)))
    return frames - frames % stride_t if frames > stride_t else frames


class Media(AbstractContextManager):
    """An open image or video, whose frames are read once and in order; :func:`open_media` returns it.

    Attributes:
        name: Path of the file, as in error messages.
        original_size: (H, W) of the file's frames, upright.
        size: (H, W) after the resize.
        fps: Frames per second of the frames that are read; None for an image.
        num_frames: Number of frames that will be read; an estimate if the file does not count them.
        more: After reading, whether the file has frames beyond ``num_frames``.
    """

    def __init__(self, frames: Iterator[Tensor], *, name: str, fps: float | None, num_frames: int,
                 limit: int | None, short_edge: int | None, file: VideoFile | None = None):
        self.name, self.fps, self.more, self._limit, self._file = name, fps, False, limit, file
        self._reading: Iterator[Tensor] | None = None
        first = next(frames, None)
        if first is None:
            raise unreadable(name, "needed at least one frame, got none; check or remove the file.")
        self._frames = chain([first], frames)
        self.num_frames = max(1, min(num_frames, limit or num_frames))
        self.original_size = height, width = tuple(first.shape[:2])
        scale = 1.0 if short_edge is None else short_edge / min(height, width)
        self.size = round(height * scale), round(width * scale)
        with path_in_errors(name):
            check_enlargement(height, width, resized=self.size, side=short_edge or 0)

    def chunks(self, frames: int) -> Iterator[Tensor]:
        """Chunks (3, T, H, W) float32 in [-1, 1] with T = ``frames``, the last one shorter.

        A thread decodes the next chunk while the caller works on one. A DataError is raised where the
        file becomes unreadable.
        """
        if frames < 1:
            raise ValueError(f"Media.chunks takes chunks of at least 1 frame, got {frames}.")
        self._reading = prefetch_next(self._chunks(frames))
        yield from self._reading

    def _chunks(self, frames: int) -> Iterator[Tensor]:
        limited = islice(self._frames, self._limit)
        while chunk := list(islice(limited, frames)):
            check_one_size([self.original_size, *(tuple(frame.shape[:2]) for frame in chunk)], path=self.name)
            yield to_pixels(resize(chunk, size=self.size))
        self.more = next(self._frames, None) is not None

    def __exit__(self, *error: object) -> None:
        if self._reading is not None:
            self._reading.close()  # waits for the thread, which may be decoding a chunk
        if self._file is not None:
            self._file.__exit__(*error)


def open_media(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None,
               num_frames: int | None = None, frame_stride: int = 1, short_edge: int | None = None) -> Media:
    """Open an image or a video to read it chunk by chunk, in memory that does not grow with its length.

    Args:
        source: The file, or all of its bytes. The suffix tells images from videos; an animated GIF is a video.
        name: Path for error messages; needed with bytes, for its suffix.
        num_frames: Frames to read at most; None: all.
        frame_stride: Read every ``frame_stride``-th frame.
        short_edge: Pixels of the shorter side after the resize; None: no resize.

    A file that cannot be read raises a DataError, here or later; a number below 1, or bytes without a name, a
    ValueError.

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
        raise ValueError("open_media needs the name of a file in bytes, whose suffix tells its format; pass name=.")
    name = os.fspath(name or source)
    suffix = Path(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix not in VIDEO_SUFFIXES:
        frames = iter(image_frame(source, name=name))
        return Media(frames, name=name, fps=None, num_frames=1, limit=num_frames, short_edge=short_edge)
    video = VideoFile(source, name=name, thread_type="AUTO")
    return Media(video.rgb_frames(frame_stride=frame_stride), name=name, fps=video.info.fps / frame_stride,
                 num_frames=-(-video.info.num_frames // frame_stride), limit=num_frames, short_edge=short_edge,
                 file=video)


class MediaWriter(AbstractContextManager):
    """Writes ``path``.png from one frame or ``path``.mp4 from more; ``path`` has no suffix, its folder exists.

    The file appears when the block ends without an error. A block without frames raises a ValueError.
    """

    def __init__(self, path: str | os.PathLike, *, fps: float | None):
        self._image, self._first = f"{os.fspath(path)}.png", None
        self._video = VideoWriter(f"{os.fspath(path)}.mp4", fps=fps)

    def write(self, pixels: Tensor) -> None:
        """Add frames (3, T, H, W) of about [-1, 1], clamped; a single first frame waits for more."""
        if self._first is not None:
            pixels, self._first = torch.cat([self._first, pixels], dim=1), None
        if pixels.shape[1] == 1 and not self._video.begun:
            self._first = pixels
        else:
            self._video.write(pixels)

    def __exit__(self, *error: object) -> None:
        if self._first is None:
            self._video.__exit__(*error)
        elif error[0] is None:
            write_image(self._image, self._first)

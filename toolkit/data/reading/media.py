"""Images and videos as tensors: whole, frame by frame, or in chunks of frames."""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import PurePath

import av
import torch
from torch import Tensor

from toolkit.data.reading.animation import Animation
from toolkit.data.reading.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, name_of, path_in_errors, unreadable
from toolkit.data.reading.formats import count_frames, identify_image, is_animation, no_image
from toolkit.data.reading.frames import check_one_size
from toolkit.data.reading.images import rgb_of
from toolkit.data.reading.transforms import check_enlargement, resize, to_pixels
from toolkit.data.reading.video_file import VideoFile
from toolkit.io.prefetch import prefetch_next

logger = logging.getLogger(__name__)

CHUNK_PIXELS, CHUNK_FRAMES = 2**21, 32  # largest chunk: two frames of 720p, 32 of 256 x 256
MAX_FRAMES = 65  # default limit of a video that is held in memory: 1 + 16 * 4, about two seconds


def open_video(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None,
               thread_type: str = "NONE", index_dir: str | os.PathLike | None = None) -> Animation | VideoFile:
    """Open a video: an ``Animation`` where the content is an image that Pillow reads, otherwise a ``VideoFile``.

    A still image is a video of one frame. See these classes for the arguments; a file that is neither raises a
    DataError.

    Example:
        >>> from toolkit.data import sample_clips
        >>> with open_video(sample_clips("eval")[0]) as video:
        ...     next(video.rgb_frames(start=40)).shape
        torch.Size([144, 176, 3])
    """
    path = name_of(source, name)
    image = identify_image(source, path=path)
    if image is not None:
        image.close()
        return Animation(source, name=path)
    suffix = PurePath(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix not in VIDEO_SUFFIXES and not _is_video(source):
        raise no_image(path, "no known format")
    return VideoFile(source, name=path, thread_type=thread_type, index_dir=index_dir)


def _is_video(source: str | os.PathLike | bytes) -> bool:
    """Whether FFmpeg finds a video in a file with an image's ending, and does not just trust the ending."""
    try:  # a malformed title tag must not make a video unreadable
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source),
                     metadata_errors="ignore") as container:
            return container.format.name != "image2" and not container.format.name.endswith("_pipe")
    except (av.FFmpegError, OSError):
        return False


def iter_frames(path: str | os.PathLike, *, start: int = 0, frame_stride: int = 1) -> Iterator[Tensor]:
    """Every ``frame_stride``-th frame of a video from frame ``start`` on, one at a time, (H, W, 3) uint8.

    Animated images (GIF, WebP, APNG, AVIF) are videos. Frame numbers are exact: frame n is the n-th that a player
    shows. A file that cannot be read raises a DataError.

    Example:
        >>> from toolkit.data import sample_clips
        >>> [tuple(frame.shape) for frame in iter_frames(sample_clips("eval")[0], start=40, frame_stride=50)]
        [(144, 176, 3), (144, 176, 3)]
    """
    with open_video(path, thread_type="AUTO") as video:
        yield from video.rgb_frames(start=start, frame_stride=frame_stride)


def read_video(path: str | os.PathLike, *, start: int = 0, num_frames: int | None = None,
               frame_stride: int = 1) -> tuple[Tensor, float]:
    """The frames of :func:`iter_frames`, ``num_frames`` (T) of them or all, and how many they are per second.

    Returns (T, H, W, 3) uint8 and a float. A file that cannot be read or has fewer frames raises a DataError.

    Example:
        >>> from toolkit.data import sample_clips
        >>> frames, fps = read_video(sample_clips("eval")[0], start=1, num_frames=4, frame_stride=2)
        >>> frames.shape, round(fps, 2)
        (torch.Size([4, 144, 176, 3]), 14.99)
    """
    with open_video(path, thread_type="AUTO") as video:
        frames = list(islice(video.rgb_frames(start=start, frame_stride=frame_stride), num_frames))
        fps = video.fps
    if len(frames) < (num_frames or 1):
        raise unreadable(path, f"needed {num_frames or 'some'} frames from frame {start} on with stride "
                               f"{frame_stride}, got {len(frames)}; ask for fewer or start earlier.")
    check_one_size((tuple(frame.shape[:2]) for frame in frames), path=path)
    return torch.stack(frames), fps / frame_stride


def frames_per_chunk(height: int, width: int, *, stride_t: int = 1) -> int:
    """Frames per chunk of a stream, chosen so that memory is bounded for any frame size.

    A chunk of more than ``stride_t`` frames (the tokenizer's temporal stride) is a multiple of it.
    """
    frames = max(1, min(CHUNK_FRAMES, CHUNK_PIXELS // (height * width)))
    return frames - frames % stride_t if frames > stride_t else frames


class Media(AbstractContextManager):
    """An open image or video, whose frames are read once and in order; :func:`open_media` returns it.

    Attributes:
        name: Path of the file, as in error messages.
        original_size, size: (H, W) of the file's frames, upright, and after the resize.
        fps: Frames per second of the frames that are read; None for an image.
        num_frames: Number of frames that will be read.
        more: After reading, whether the file has frames beyond ``num_frames``.
    """

    def __init__(self, frames: Iterator[Tensor], *, name: str, fps: float | None, num_frames: int,
                 limit: int | None, short_edge: int | None, file: Animation | VideoFile | None = None):
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

        A thread decodes the next chunk while the caller works on one. A DataError is raised where the file becomes
        unreadable.
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

    The content decides, not the ending: an image that Pillow reads is one frame, unless it is animated. Only the first
    page of a TIFF or HEIC is read, with a warning.

    Args:
        source: The file, or all of its bytes.
        name: Path for error messages; needed with bytes, since the ending of some formats counts.
        num_frames, frame_stride: Read at most so many frames (None: all), every ``frame_stride``-th.
        short_edge: Pixels of the shorter side after the resize; None: no resize.

    Raises:
        DataError: If the file cannot be read, when it is opened or while its chunks are read.
        ValueError: If a number is below 1, or bytes come without a name.

    Example:
        >>> from toolkit.data import sample_clips
        >>> with open_media(sample_clips("eval")[0], num_frames=5, frame_stride=2, short_edge=72) as media:
        ...     media.original_size, media.fps, [tuple(chunk.shape) for chunk in media.chunks(3)], media.more
        ((144, 176), 14.985014985014985, [(3, 3, 72, 88), (3, 2, 72, 88)], True)
    """
    if any(number is not None and number < 1 for number in (num_frames, frame_stride, short_edge)):
        raise ValueError("open_media takes num_frames, frame_stride and short_edge of at least 1, got "
                         f"{num_frames}, {frame_stride} and {short_edge}.")
    if name is None and isinstance(source, bytes):
        raise ValueError("open_media needs the name of a file in bytes, whose suffix tells its format; pass name=.")
    name = os.fspath(name or source)
    image = identify_image(source, path=name)
    if image is not None and not is_animation(image, path=name):
        with image:
            frame = rgb_of(image, path=name)
            if (pages := count_frames(image, path=name)) > 1:
                logger.warning("%s: only the first of its %d pages is used.", name, pages)
        return Media(iter([frame]), name=name, fps=None, num_frames=1, limit=num_frames, short_edge=short_edge)
    video = open_video(source, name=name, thread_type="AUTO")
    return Media(video.rgb_frames(frame_stride=frame_stride), name=name, fps=video.fps / frame_stride,
                 num_frames=math.ceil(len(video.times) / frame_stride), limit=num_frames, short_edge=short_edge,
                 file=video)

"""Videos as tensors: read frames, iterate over them, write a file (PyAV)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.data.reading.files import unreadable
from toolkit.data.reading.transforms import to_frames
from toolkit.data.reading.video_file import VideoFile, check_one_size
from toolkit.io.atomic_write import atomic_write


def iter_frames(path: str | os.PathLike, *, start: int = 0, frame_stride: int = 1) -> Iterator[Tensor]:
    """Every ``frame_stride``-th frame of a video from frame ``start`` on, one at a time, (H, W, 3) uint8.

    Frame numbers are exact: the packets' timestamps locate frame ``start``; if the seek misses it,
    the file is decoded from its beginning. A file that cannot be read raises a DataError.

    Example:
        >>> from toolkit.data import sample_clips
        >>> [tuple(frame.shape) for frame in iter_frames(sample_clips("eval")[0], start=40, frame_stride=50)]
        [(144, 176, 3), (144, 176, 3)]
    """
    with VideoFile(path, thread_type="AUTO") as video:
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
    with VideoFile(path, thread_type="AUTO") as video:
        frames = list(islice(video.rgb_frames(start=start, frame_stride=frame_stride), num_frames))
    if len(frames) < (num_frames or 1):
        raise unreadable(path, f"needed {num_frames or 'some'} frames from frame {start} on with stride "
                               f"{frame_stride}, got {len(frames)}; ask for fewer or start earlier.")
    check_one_size((tuple(frame.shape[:2]) for frame in frames), path=path)
    return torch.stack(frames), video.info.fps / frame_stride


class VideoWriter(AbstractContextManager):
    """An mp4 for any player, written chunk by chunk: H.264 at high quality (CRF 12), yuv420p, BT.601.

    The file is complete when the ``with`` block ends without an error; its folder must exist. A block without frames
    raises a ValueError. yuv420p needs an even height and width: an odd one becomes even by repeating the last row or
    column.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "odd.mp4")
        >>> with VideoWriter(path, fps=29.97) as video:
        ...     for length in (1, 4):
        ...         video.write(torch.zeros(3, length, 31, 47))
        >>> read_video(path)[0].shape
        torch.Size([5, 32, 48, 3])
    """

    def __init__(self, path: str | os.PathLike, *, fps: float):
        self.path, self.fps = path, fps
        self._open = ExitStack()
        self._container = self._stream = None

    @property
    def begun(self) -> bool:
        """Whether frames were written."""
        return self._container is not None

    def write(self, pixels: Tensor) -> None:
        """Encode frames (3, T, H, W) of about [-1, 1], clamped; a ValueError if H or W changes."""
        if pixels.ndim != 4 or pixels.shape[0] != 3:
            raise ValueError(f"{self.path}: a video is written from pixels (3, T, H, W), got {tuple(pixels.shape)}; "
                             "write one sample of a batch at a time.")
        height, width = pixels.shape[2:]
        size = height + height % 2, width + width % 2
        if not self.begun:
            self._begin(*size)
        if size != (self._stream.height, self._stream.width):
            raise ValueError(f"{self.path}: needed frames of the first one's size, "
                             f"{self._stream.height} x {self._stream.width}, got {height} x {width}.")
        planes = rearrange(to_frames(pixels), "t h w c -> t c h w").float()
        planes = F.pad(planes, (0, width % 2, 0, height % 2), mode="replicate").to(torch.uint8)
        for image in rearrange(planes, "t c h w -> t h w c").numpy():
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def _begin(self, height: int, width: int) -> None:
        partial = self._open.enter_context(atomic_write(self.path))
        self._container = self._open.enter_context(av.open(os.fspath(partial), "w", format="mp4"))
        # x264's macroblock tree reads uninitialised memory: with it, equal frames give different bytes
        self._stream = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001),
                                                  options={"crf": "12", "preset": "medium", "mbtree": "0"})
        self._stream.pix_fmt = "yuv420p"
        self._stream.height, self._stream.width = height, width
        self._open.push(self._flush)

    def _flush(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._container.mux(self._stream.encode())

    def __exit__(self, *error: object) -> None:
        if error[0] is None and not self.begun:
            raise ValueError(f"{self.path}: a video needs at least one frame, got none.")
        self._open.__exit__(*error)


def write_video(path: str | os.PathLike, pixels: Tensor, *, fps: float) -> None:
    """Write a complete video as :class:`VideoWriter` does: pixels (3, T, H, W) of about [-1, 1], clamped.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "grey.mp4")
        >>> write_video(path, torch.zeros(3, 5, 32, 48), fps=25)
        >>> read_video(path)[0].shape
        torch.Size([5, 32, 48, 3])
    """
    with VideoWriter(path, fps=fps) as video:
        video.write(pixels)

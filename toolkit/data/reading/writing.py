"""Images and videos from pixels: files that appear when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fractions import Fraction

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit.data.reading.transforms import to_frames
from toolkit.io.atomic_write import atomic_write


def write_image(path: str | os.PathLike, pixels: Tensor) -> None:
    """Write one image, completely or not at all; the suffix chooses the format (``.png`` is lossless).

    ``pixels`` (3, 1, H, W) of about [-1, 1] are clamped and rounded to 8 bits; the folder of ``path`` must exist.

    Example:
        >>> from tempfile import mkdtemp
        >>> write_image(path := f"{mkdtemp()}/black.png", torch.full((3, 1, 4, 6), -1.0))
        >>> Image.open(path).getpixel((5, 3))
        (0, 0, 0)
    """
    if pixels.ndim != 4 or pixels.shape[0] != 3 or pixels.shape[1] != 1:
        raise ValueError(f"write_image takes pixels (3, 1, H, W), got {tuple(pixels.shape)}; "
                         "write one frame of one sample at a time.")
    options = {"quality": 95} if os.fspath(path).lower().endswith((".jpg", ".jpeg", ".webp")) else {}
    with atomic_write(path) as partial:
        Image.fromarray(to_frames(pixels)[0].numpy()).save(partial, **options)


class VideoWriter(AbstractContextManager):
    """An mp4 for any player, written chunk by chunk: H.264 at high quality (CRF 12), yuv420p, BT.601.

    The file is complete when the ``with`` block ends without an error; its folder must exist. A block without frames
    raises a ValueError. yuv420p needs even sizes: the last row or column of an odd one is repeated.

    Example:
        >>> from tempfile import mkdtemp
        >>> from toolkit.data import read_video
        >>> with VideoWriter(path := f"{mkdtemp()}/odd.mp4", fps=29.97) as video:
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
            self._container, self._stream = self._open.enter_context(self._encoder(*size))
        if size != (self._stream.height, self._stream.width):
            raise ValueError(f"{self.path}: needed frames of the first one's size, "
                             f"{self._stream.height} x {self._stream.width}, got {height} x {width}.")
        margins = (0, 0), (0, height % 2), (0, width % 2), (0, 0)
        for frame in np.pad(to_frames(pixels).numpy(), margins, mode="edge"):
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    @contextmanager
    def _encoder(self, height: int, width: int) -> Iterator[tuple[av.container.OutputContainer, av.VideoStream]]:
        with atomic_write(self.path) as partial, av.open(os.fspath(partial), "w", format="mp4") as container:
            # x264's macroblock tree reads uninitialised memory: with it, equal frames give different bytes
            stream = container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001),
                                          options={"crf": "12", "preset": "medium", "mbtree": "0"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            yield container, stream
            container.mux(stream.encode())

    def __exit__(self, *error: object) -> None:
        if error[0] is None and not self.begun:
            raise ValueError(f"{self.path}: a video needs at least one frame, got none.")
        self._open.__exit__(*error)


def write_video(path: str | os.PathLike, pixels: Tensor, *, fps: float) -> None:
    """Write a complete video as :class:`VideoWriter` does: pixels (3, T, H, W) of about [-1, 1], clamped.

    Example:
        >>> from tempfile import mkdtemp
        >>> from toolkit.data import read_video
        >>> write_video(path := f"{mkdtemp()}/grey.mp4", torch.zeros(3, 5, 32, 48), fps=25)
        >>> read_video(path)[0].shape
        torch.Size([5, 32, 48, 3])
    """
    with VideoWriter(path, fps=fps) as video:
        video.write(pixels)


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

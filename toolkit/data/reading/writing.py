"""Images and videos from pixels: files that appear when they are complete."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from fractions import Fraction

import av
import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from PIL import Image
from torch import Tensor

from toolkit.contracts.pixels import check_float_pixels, check_not_bytes
from toolkit.data.reading.transforms import to_frames
from toolkit.io.atomic_write import atomic_write

MIN_FPS, MAX_FPS = 1e-5, 1_000_000
NTSC_RATES = [Fraction(1000 * rate, 1001) for rate in (24, 30, 48, 60, 120, 240)]
LARGEST_TERM = 200_000_000  # of a rate's fraction; ten frames, more than B-frames reach, then last less than 2^31 ticks
MIN_CLOCK = 1000  # ticks per second, as other writers use; at MIN_FPS a frame lasts at most 200 million ticks
MAX_SIDE = 16384  # pixels, of x264
BT709 = 1  # the matrix's number in ITU-T H.273


def write_image(path: str | os.PathLike, pixels: Tensor) -> None:
    """Write one image, completely or not at all; the suffix chooses the format (``.png`` is lossless).

    ``pixels`` (3, 1, H, W) of about [-1, 1] are clamped and rounded to 8 bits; the folder of ``path`` must exist.

    Example:
        >>> from tempfile import mkdtemp
        >>> write_image(path := f"{mkdtemp()}/black.png", torch.full((3, 1, 4, 6), -1.0))
        >>> Image.open(path).getpixel((5, 3))
        (0, 0, 0)
    """
    _check_pixels("write_image", pixels)
    if pixels.ndim != 4 or pixels.shape[0] != 3 or pixels.shape[1] != 1:
        raise ValueError(f"write_image takes pixels (3, 1, H, W), got {tuple(pixels.shape)}; "
                         "write one frame of one sample at a time.")
    options = {"quality": 95} if os.fspath(path).lower().endswith((".jpg", ".jpeg", ".webp")) else {}
    with atomic_write(path) as partial:
        Image.fromarray(to_frames(pixels)[0].numpy()).save(partial, **options)


def _check_pixels(who: str, pixels: Tensor) -> None:
    check_float_pixels(who, pixels)
    check_not_bytes(who, pixels)


def frame_rate(fps: float, *, path: str | os.PathLike) -> Fraction:
    """The rate that an mp4 of ``fps`` frames per second states; a ValueError if mp4 cannot hold it.

    NTSC rates in decimals are those of the standard: 29.97 is 30000/1001. Others are exact, or within 1e-8 of ``fps``.

    Example:
        >>> frame_rate(23.976, path="a.mp4"), frame_rate(0.00025, path="a.mp4")
        (Fraction(24000, 1001), Fraction(1, 4000))
    """
    if not isinstance(fps, Fraction):
        with suppress(TypeError, ValueError):
            fps = int(fps) if hasattr(fps, "__index__") else float(fps)  # of NumPy, of torch, or text
    if not isinstance(fps, int | float | Fraction) or not MIN_FPS <= fps <= MAX_FPS:  # NaN fails this too
        raise ValueError(f"{os.fspath(path)}: an mp4 takes from {MIN_FPS:.5f} to {MAX_FPS:,} frames per second, "
                         f"got {fps}; choose a rate or a frame stride within these bounds.")
    exact = Fraction(fps)
    for rate in NTSC_RATES:
        if abs(exact / rate - 1) < 1.5e-6:  # above the error of 0.999 for 1000/1001
            return rate
    if exact < 1:
        return 1 / (1 / exact).limit_denominator(LARGEST_TERM // math.ceil(1 / exact))
    return exact.limit_denominator(LARGEST_TERM // math.ceil(exact))


class VideoWriter(AbstractContextManager):
    """An mp4 for any player, written chunk by chunk: H.264 at high quality (CRF 12), yuv420p, BT.709.

    The file is complete when the ``with`` block ends without an error; its folder must exist. A block without frames
    raises a ValueError, and so does a rate below 1e-5 or above 1e6 frames per second. yuv420p needs even sizes, so an
    odd height or width gets a copy of its last row or column. The stream and the file name their matrix, primaries and
    transfer (BT.709) and range (limited), so that all players show the same colours.

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
        self.path, self.fps, self._rate = path, fps, frame_rate(fps, path=path)
        self._resources, self._converter = ExitStack(), VideoReformatter()
        self._container = self._stream = None

    @property
    def begun(self) -> bool:
        """Whether frames were written."""
        return self._container is not None

    def write(self, pixels: Tensor) -> None:
        """Encode frames (3, T, H, W) of about [-1, 1], clamped.

        Raises a ValueError if H or W changes or the values are not such pixels, an OSError for more than 16,384 pixels
        a side.
        """
        _check_pixels(os.fspath(self.path), pixels)
        if pixels.ndim != 4 or pixels.shape[0] != 3:
            raise ValueError(f"{self.path}: a video is written from pixels (3, T, H, W), got {tuple(pixels.shape)}; "
                             "write one sample of a batch at a time.")
        height, width = pixels.shape[2:]
        size = height + height % 2, width + width % 2
        if max(size) > MAX_SIDE:
            raise OSError(f"{self.path}: an mp4 takes at most {MAX_SIDE:,} pixels a side, got {height} x {width}")
        if not self.begun:
            self._container, self._stream = self._resources.enter_context(self._encoder(*size))
        if size != (self._stream.height, self._stream.width):
            raise ValueError(f"{self.path}: needed frames of the first one's size, "
                             f"{self._stream.height} x {self._stream.width}, got {height} x {width}.")
        margins = (0, 0), (0, height % 2), (0, width % 2), (0, 0)
        for frame in np.pad(to_frames(pixels).numpy(), margins, mode="edge"):
            self._container.mux(self._stream.encode(self._yuv(frame)))

    def _yuv(self, frame: np.ndarray) -> av.VideoFrame:
        # AREA: chroma is the mean of the 2 x 2 pixels that share it; one thread, as several do not always round alike
        return self._converter.reformat(av.VideoFrame.from_ndarray(frame, format="rgb24"), format="yuv420p",
                                        dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG,
                                        interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND, threads=1)

    @contextmanager
    def _encoder(self, height: int, width: int) -> Iterator[tuple[av.container.OutputContainer, av.VideoStream]]:
        clock = self._rate.numerator  # ticks per second; a frame lasts a whole number of them
        while clock < MIN_CLOCK:
            clock *= 2
        # edit lists count in the movie's ticks, which must be the track's for the edit of a short video to be exact
        clocks = {"video_track_timescale": str(clock), "movie_timescale": str(clock)}
        with atomic_write(self.path) as partial, \
                av.open(os.fspath(partial), "w", format="mp4", options=clocks) as container:
            # x264's macroblock tree reads uninitialised memory: with it, equal frames give different bytes
            stream = container.add_stream("libx264", rate=self._rate,
                                          options={"crf": "12", "preset": "medium", "mbtree": "0"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            codec = stream.codec_context
            codec.colorspace, codec.color_range = BT709, ColorRange.MPEG
            codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            yield container, stream
            container.mux(stream.encode())

    def __exit__(self, *error: object) -> None:
        if error[0] is None and not self.begun:
            raise ValueError(f"{self.path}: a video needs at least one frame, got none.")
        self._resources.__exit__(*error)


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

    The file appears when the block ends without an error. A block without frames raises a ValueError. ``fps`` counts
    for a video only.
    """

    def __init__(self, path: str | os.PathLike, *, fps: float | None):
        self._image, self._mp4, self._fps = f"{os.fspath(path)}.png", f"{os.fspath(path)}.mp4", fps
        self._first = self._video = None

    def write(self, pixels: Tensor) -> None:
        """Add frames (3, T, H, W) of about [-1, 1], clamped; a single first frame waits for more."""
        if self._first is not None:
            pixels, self._first = torch.cat([self._first, pixels], dim=1), None
        if pixels.shape[1] == 1 and self._video is None:
            _check_pixels(self._image, pixels)
            self._first = pixels
            return
        if self._video is None:
            self._video = VideoWriter(self._mp4, fps=self._fps)
        self._video.write(pixels)

    def __exit__(self, *error: object) -> None:
        if self._video is not None:
            self._video.__exit__(*error)
        elif error[0] is None:
            if self._first is None:
                raise ValueError(f"{self._image}: an image or a video needs at least one frame, got none.")
            write_image(self._image, self._first)

"""Animated images (GIF, WebP, APNG, AVIF) as videos (Pillow)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
from torch import Tensor

from toolkit.data.reading.files import name_of
from toolkit.data.reading.formats import image_errors, is_animation, open_image
from toolkit.data.reading.images import rgb_of

DEFAULT_DURATION = 100  # milliseconds of a frame whose duration is 0 or not in the file, as browsers show it


class Animation(AbstractContextManager):
    """An open animated image (a file, or all of its bytes), read as a video; a still image is one frame.

    Frames are composed as the file asks, upright, in sRGB and on white. A DataError is raised if the file is no image
    or any frame is damaged: all are decoded once at the start, since some formats store a duration with its frame.

    Attributes:
        path: ``name``, by default ``source``.
        fps: Average frames per second: the number of frames divided by their total duration.
        times: (N,) float64, seconds at which each frame begins; the first is 0.
        num_decoded: Number of decoded frames.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file, (first, *others) = io.BytesIO(), [Image.new("L", (6, 4), level) for level in (0, 99, 255)]
        >>> first.save(file, "gif", save_all=True, append_images=others, duration=[100, 300, 200])
        >>> with Animation(file.getvalue()) as animation:
        ...     animation.fps, animation.times, [int(frame.max()) for frame in animation.read([1, 1, 2])]
        (5.0, array([0. , 0.1, 0.4]), [99, 99, 255])
    """

    def __init__(self, source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None):
        self.path = name_of(source, name)
        self.num_decoded = 0
        self._image = open_image(source, path=self.path)
        # an APNG may begin with a still for readers without animation, which is none of its frames
        self._num_stills = 1 if getattr(self._image, "default_image", False) else 0
        try:
            self.times, seconds = self._read_times()
        except BaseException:
            self._image.close()
            raise
        self.fps = len(self.times) / seconds

    def __exit__(self, *error: object) -> None:
        self._image.close()

    def _read_times(self) -> tuple[np.ndarray, float]:
        """(N,) times at which the frames begin, and their total duration, in seconds."""
        with image_errors(self.path):
            count = self._image.n_frames - self._num_stills if is_animation(self._image, path=self.path) else 1
        durations, stamps = [], []
        for number in range(count):
            self._load(number)
            durations.append(self._image.info.get("duration") or DEFAULT_DURATION)
            stamps.append(self._image.info.get("timestamp"))
        times = np.cumsum([0.0, *durations[:-1]])
        if None not in stamps and all(np.diff(stamps) > 0):  # more exact than sums of rounded durations
            times = np.array(stamps, np.float64) - stamps[0]
        return times / 1000, float(times[-1] + durations[-1]) / 1000

    def _load(self, number: int) -> None:
        with image_errors(self.path):
            if number or self._num_stills or self._image.tell():
                self._image.seek(number + self._num_stills)
            self._image.load()
        self.num_decoded += 1

    def _frame(self, number: int) -> Tensor:
        self._load(number)
        return rgb_of(self._image, path=self.path)

    def read(self, numbers: Sequence[int]) -> list[Tensor]:
        """The frames (H, W, 3) uint8 of ascending numbers, which may repeat. Raises ValueError for other numbers."""
        if any(not 0 <= number < len(self.times) for number in numbers) or list(numbers) != sorted(numbers):
            raise ValueError(f"Animation.read takes ascending numbers below {len(self.times)}, got {list(numbers)}.")
        frames = {number: self._frame(number) for number in dict.fromkeys(numbers)}
        return [frames[number] for number in numbers]

    def rgb_frames(self, *, start: int = 0, frame_stride: int = 1) -> Iterator[Tensor]:
        """Every ``frame_stride``-th frame from the ``start``-th on, (H, W, 3) uint8."""
        if start < 0 or frame_stride < 1:
            raise ValueError(f"reading frames takes start >= 0 and frame_stride >= 1, got {start} and {frame_stride}.")
        return (self._frame(number) for number in range(start, len(self.times), frame_stride))

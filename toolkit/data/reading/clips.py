"""The frames of a video that form a clip."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from toolkit.contracts import DataError
from toolkit.data.reading.animation import Animation
from toolkit.data.reading.files import unreadable
from toolkit.data.reading.video_file import VideoFile


class Clipping:
    """Chooses the frames of a clip: every ``frame_stride``-th, or with ``fps`` those nearest to the times k / fps.

    In training, clips are random, drawn from torch's global generator. Otherwise ``clips_per_video`` clips are evenly
    spaced from the first frame to the last; a single one lies in the middle.
    """

    def __init__(self, *, num_frames: int, frame_stride: int = 1, fps: float | None = None, train: bool = True,
                 clips_per_video: int = 1):
        if num_frames < 1 or frame_stride < 1 or clips_per_video < 1:
            raise ValueError("a clip takes num_frames, frame_stride and clips_per_video of at least 1, "
                             f"got {num_frames}, {frame_stride}, {clips_per_video}.")
        if fps is not None and (frame_stride != 1 or fps <= 0):
            raise ValueError("a clip takes either frame_stride or a positive fps, got "
                             f"frame_stride={frame_stride} and fps={fps}; remove one.")
        self.num_frames, self.frame_stride, self.fps = num_frames, frame_stride, fps
        self.span = (num_frames - 1) * frame_stride + 1  # frames from the first to the last, without fps
        self.train, self.clips_per_video = train, clips_per_video

    def __call__(self, video: VideoFile | Animation, *, number: int = 0) -> Sequence[Tensor]:
        """The clip, T frames (H, W, 3) uint8; ``number`` counts the fixed clips. A short video raises a DataError."""
        return video.read(self.frame_numbers(video.times, 1 / video.fps, number=number, path=video.path))

    def frame_numbers(self, times: np.ndarray, period: float, *, number: int = 0,
                      path: str | os.PathLike) -> list[int]:
        """The frames of a clip from a video whose frames are shown at ``times`` (N,) seconds, the last for ``period``.

        Raises a DataError with its ``path`` if the video is too short.
        """
        if self.fps is None:
            if len(times) < self.span:
                raise self._too_short(path, f"needed {self.span} frames ({self.num_frames} with stride "
                                            f"{self.frame_stride}), got {len(times)}")
            last = len(times) - self.span
            start = int(torch.randint(last + 1, ())) if self.train else round(last * self._fraction(number))
            return list(range(start, start + self.span, self.frame_stride))
        duration, length = (self.num_frames - 1) / self.fps, times[-1] if len(times) else 0.0
        if not len(times) or duration > length + period / 2:  # the last frame is the nearest for half its period
            raise self._too_short(path, f"needed {self.num_frames} frames at {self.fps:g} per second, "
                                        f"{duration:.3f} s in all, got {length:.3f} s")
        fraction = float(torch.rand((), dtype=torch.float64)) if self.train else self._fraction(number)
        moments = max(0.0, length - duration) * fraction + np.arange(self.num_frames) / self.fps
        halfway = (times[:-1] + times[1:]) / 2  # from each frame to the next
        return np.searchsorted(halfway, moments).tolist()

    def _fraction(self, number: int) -> float:
        return number / (self.clips_per_video - 1) if self.clips_per_video > 1 else 0.5

    def _too_short(self, path: str | os.PathLike, problem: str) -> DataError:
        return unreadable(path, f"{problem}; ask for shorter clips or remove the file.")

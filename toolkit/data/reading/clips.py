"""The frames of a video that form a clip."""

from __future__ import annotations

import math
import os
from itertools import dropwhile

import av
import torch

from toolkit.contracts import DataError
from toolkit.data.reading.files import unreadable
from toolkit.data.reading.video_file import RGBFrames, VideoFile


class Clipping:
    """Chooses the frames of a clip: every ``frame_stride``-th, or with ``fps`` those nearest to the times k / fps.

    In training clips are random, drawn from torch's global generator. Otherwise ``clips_per_video`` of them are evenly
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
        self.train, self.clips_per_video = train, clips_per_video

    def __call__(self, video: VideoFile, *, number: int = 0) -> RGBFrames:
        """The clip, T frames (H, W, 3) uint8; ``number`` counts the fixed clips. Too short a video is a DataError."""
        info = video.info
        if self.fps is None:
            start = info.start + self.start_frame(info.num_frames, number=number) / info.fps
            return strided_frames(video, start=start, num_frames=self.num_frames, frame_stride=self.frame_stride)
        last = max(0.0, (info.num_frames - 1) / info.fps - (self.num_frames - 1) / self.fps)
        fraction = float(torch.rand((), dtype=torch.float64)) if self.train else self._fraction(number)
        return timed_frames(video, start=info.start + last * fraction, num_frames=self.num_frames, fps=self.fps)

    def start_frame(self, num_frames: int, *, number: int = 0) -> int:
        """The first frame of a clip from a video of ``num_frames`` frames."""
        last = max(0, num_frames - 1 - (self.num_frames - 1) * self.frame_stride)
        return int(torch.randint(last + 1, ())) if self.train else round(last * self._fraction(number))

    def _fraction(self, number: int) -> float:
        return number / (self.clips_per_video - 1) if self.clips_per_video > 1 else 0.5


def strided_frames(video: VideoFile, *, start: float, num_frames: int, frame_stride: int) -> RGBFrames:
    """Every ``frame_stride``-th frame from ``start`` seconds on (or at most half a period before).

    If the stream ends too early (its frame count was an estimate, or its rate varies), the clip starts
    earlier by what is missing; a stream shorter than the clip raises a DataError.
    """
    period, needed = 1.0 / video.info.fps, (num_frames - 1) * frame_stride + 1
    growth = 1
    while True:
        frames, count = [], 0
        first = start - 0.5 * period if start > video.info.start else -math.inf
        for _, frame in dropwhile(lambda item, first=first: item[0] < first, video.frames_from(start)):
            if count % frame_stride == 0:
                frames.append(frame)
            count += 1
            if len(frames) == num_frames:
                return RGBFrames(frames, path=video.path)
        if start <= video.info.start:
            raise too_short(video.path, needed=f"{needed} frames ({num_frames} with stride {frame_stride})",
                            got=f"{count}")
        start = max(video.info.start, start - growth * (needed - count) * period)
        growth *= 2  # the average rate may be far off: few tries must suffice


def too_short(path: str | os.PathLike, *, needed: str, got: str) -> DataError:
    """The error of a video that is shorter than a clip."""
    return unreadable(path, f"needed {needed}, got {got}; ask for shorter clips or remove the file.")


def timed_frames(video: VideoFile, *, start: float, num_frames: int, fps: float) -> RGBFrames:
    """The frames whose timestamps are nearest to ``start + k / fps`` for k in 0 ... num_frames - 1.

    If the stream ends too early, the clip starts earlier; a stream shorter than the clip raises a DataError.
    """
    growth = 1
    while True:
        frames, last = _nearest(video, [start + k / fps for k in range(num_frames)])
        if len(frames) == num_frames:
            return RGBFrames(frames, path=video.path)
        if start <= video.info.start:
            raise too_short(video.path, got=f"{last - video.info.start:.3f} s",
                            needed=f"{num_frames} frames at {fps:g} per second, {(num_frames - 1) / fps:.3f} s in all")
        missing = start + (num_frames - 1) / fps - last
        start = max(video.info.start, start - growth * max(missing, 1.0 / video.info.fps))
        growth *= 2


def _nearest(video: VideoFile, times: list[float]) -> tuple[list[av.VideoFrame], float]:
    """The frame nearest to each time, until the stream ends, and the seconds of the last frame read."""
    frames, previous = [], None  # previous: (seconds, frame), which may still be the nearest
    for seconds, frame in video.frames_from(times[0]):
        if previous is not None:
            middle = (previous[0] + seconds) / 2
            while len(frames) < len(times) and times[len(frames)] <= middle:
                frames.append(previous[1])
        if len(frames) == len(times):
            return frames, seconds
        previous = (seconds, frame)
    if previous is None:
        return frames, video.info.start
    # the last frame is shown for one period, and is the nearest for half of it
    while len(frames) < len(times) and times[len(frames)] <= previous[0] + 0.5 / video.info.fps:
        frames.append(previous[1])
    return frames, previous[0]

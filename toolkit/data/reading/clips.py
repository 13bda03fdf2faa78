"""The frames of a video that form a clip."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
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
        self.span = (num_frames - 1) * frame_stride + 1  # frames from the first to the last, without fps
        self.train, self.clips_per_video = train, clips_per_video

    def __call__(self, video: VideoFile, *, number: int = 0) -> RGBFrames:
        """The clip, T frames (H, W, 3) uint8; ``number`` counts the fixed clips. Too short a video is a DataError."""
        info = video.info
        if self.fps is None:
            return self.frames(video, start=info.start + self.start_frame(info.num_frames, number=number) / info.fps)
        last = max(0.0, (info.num_frames - 1) / info.fps - (self.num_frames - 1) / self.fps)
        fraction = float(torch.rand((), dtype=torch.float64)) if self.train else self._fraction(number)
        return self.frames(video, start=info.start + last * fraction)

    def start_frame(self, num_frames: int, *, number: int = 0) -> int:
        """The first frame of a clip from a video of ``num_frames`` frames, without fps."""
        last = max(0, num_frames - self.span)
        return int(torch.randint(last + 1, ())) if self.train else round(last * self._fraction(number))

    def _fraction(self, number: int) -> float:
        return number / (self.clips_per_video - 1) if self.clips_per_video > 1 else 0.5

    def frames(self, video: VideoFile, *, start: float) -> RGBFrames:
        """The clip from ``start`` seconds on, without fps from at most half a frame before.

        If the stream ends too early (its frame count was an estimate, or its rate varies), the clip starts
        earlier by what is missing; a stream shorter than the clip raises a DataError.
        """
        read = self._strided if self.fps is None else self._timed
        growth = 1
        while True:
            frames, length, missing = read(video, start)
            if len(frames) == self.num_frames:
                return RGBFrames(frames, path=video.path)
            if start <= video.info.start:
                raise self.too_short(video.path, length)
            start = max(video.info.start, start - growth * missing)
            growth *= 2  # the average rate may be far off: few tries must suffice

    def too_short(self, path: str | os.PathLike, length: float) -> DataError:
        """The error of a video that has ``length`` frames only, with fps seconds."""
        if self.fps is None:
            problem = f"needed {self.span} frames ({self.num_frames} with stride {self.frame_stride}), got {length}"
        else:
            problem = (f"needed {self.num_frames} frames at {self.fps:g} per second, "
                       f"{(self.num_frames - 1) / self.fps:.3f} s in all, got {length:.3f} s")
        return unreadable(path, f"{problem}; ask for shorter clips or remove the file.")

    def _strided(self, video: VideoFile, start: float) -> tuple[list[av.VideoFrame], int, float]:
        """Every ``frame_stride``-th frame, how many the stream has, and the seconds of those that are missing."""
        period = 1.0 / video.info.fps
        first = start - 0.5 * period if start > video.info.start else -math.inf
        frames, count = [], 0
        for _, frame in dropwhile(lambda item: item[0] < first, video.frames_from(start)):
            if count % self.frame_stride == 0:
                frames.append(frame)
            count += 1
            if count == self.span:
                break
        return frames, count, (self.span - count) * period

    def _timed(self, video: VideoFile, start: float) -> tuple[list[av.VideoFrame], float, float]:
        """The frames nearest to the times k / fps, the seconds that the stream has, and those that are missing."""
        times = [start + k / self.fps for k in range(self.num_frames)]
        frames, seconds, frame = [], video.info.start, None
        for next_seconds, next_frame in video.frames_from(start):
            if frame is not None:
                frames += [frame] * (bisect_right(times, (seconds + next_seconds) / 2) - len(frames))
            seconds, frame = next_seconds, next_frame
            if len(frames) == self.num_frames:
                break
        if frame is not None:  # shown for one period, and the nearest for half of it
            frames += [frame] * (bisect_right(times, seconds + 0.5 / video.info.fps) - len(frames))
        return frames, seconds - video.info.start, max(times[-1] - seconds, 1.0 / video.info.fps)

"""Clips from video files."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path

import av
import torch
import torch.utils.data
from torch import Tensor

from toolkit.contracts import Dataset
from toolkit.data.datasets.sample_clips import sample_clips
from toolkit.data.reading.files import about, list_files, unreadable
from toolkit.data.reading.transforms import Framing
from toolkit.data.reading.video_file import VIDEO_SUFFIXES, RGBFrames, VideoFile
from toolkit.registry import DATASETS

logger = logging.getLogger(__name__)


@DATASETS.register_module()
class VideoClips(Dataset, torch.utils.data.Dataset):
    """Clips of a fixed number of frames from video files, read by seeking.

    Training draws the clip, the crop and the flip from torch's global generator. Evaluation has
    ``clips_per_video`` fixed clips per file, evenly spaced from its first frame to its last (a
    single one lies in the middle), and the centre crop.

    Args:
        path: A folder (searched recursively), a list file (``.txt``, one path per line, relative to
            it), a glob, a file, or a list of those. None: the real sample clips of the toolkit.
        num_frames: T.
        size: (H, W) of the pixels, or one number for both.
        short_edge: Pixels of the short edge after the resize, (lo, hi) to draw it in training;
            None: the smallest resize that covers ``size``.
        frame_stride: Take every so many-th frame of the stream.
        fps: Take the frames nearest to this rate's moments instead, whatever the stream's rate; a
            slower stream repeats frames. Not together with ``frame_stride``.
        train: Random clips; False: fixed ones.
        flip: Probability of a horizontal flip in training.
        channel_shuffle: Probability of a random order of R, G and B in training.
        clips_per_video: Clips per file in evaluation.
        samples: Which sample clips ``path=None`` means, "demo" or "full".

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a file is no video or too short.
        ValueError: If the numbers do not fit each other.

    Example:
        >>> clips = VideoClips(num_frames=5, size=64, train=False, clips_per_video=2)   # carphone
        >>> len(clips), clips[1]["pixels"].shape
        (2, torch.Size([3, 5, 64, 64]))
    """

    modality = "video"

    def __init__(self, *, path: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
                 num_frames: int = 17, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, frame_stride: int = 1,
                 fps: float | None = None, train: bool = True, flip: float = 0.5,
                 channel_shuffle: float = 0.0, clips_per_video: int = 1, samples: str = "demo"):
        self.clipping = Clipping(num_frames=num_frames, frame_stride=frame_stride, fps=fps, train=train,
                                 clips_per_video=clips_per_video)
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)
        self.clips_per_video = 1 if train else clips_per_video
        self.files = video_files(path, train=train, samples=samples)

    def __len__(self) -> int:
        return len(self.files) * self.clips_per_video

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """{"pixels": (3, T, H, W) float32 in [-1, 1], "key": path, in evaluation with #clip}."""
        if not 0 <= index < len(self):
            raise IndexError(f"VideoClips has {len(self)} clips, got index {index}.")
        number, clip = divmod(index, self.clips_per_video)
        path = self.files[number]
        key = str(path) if self.clips_per_video == 1 else f"{path}#{clip}"
        with about(path):
            return {"pixels": self.framing(self._clip(number, clip)), "key": key}

    def _clip(self, number: int, clip: int) -> Sequence[Tensor]:
        """T frames (H, W, 3) uint8 of a file; ``clip`` is its number in evaluation."""
        with VideoFile(self.files[number]) as video:
            return self.clipping(video, number=clip)


def video_files(path: str | os.PathLike | Sequence[str | os.PathLike] | None, *, train: bool,
                samples: str) -> list[Path]:
    """The videos of ``path``, or the sample clips' train or eval split; which, is logged.

    Example:
        >>> [file.name for file in video_files(None, train=False, samples="demo")]
        ['carphone.mp4']
    """
    if path is not None:
        return list_files(path, suffixes=VIDEO_SUFFIXES)
    split = "train" if train else "eval"
    files = sample_clips(split, samples=samples)
    logger.warning("no data path given: using the toolkit's %s sample clips, %s split (%s).", samples, split,
                   ", ".join(file.name for file in files))
    return files


class Clipping:
    """Which frames of a video become a clip, as :class:`Framing` is which part of a frame.

    Args:
        num_frames: T.
        frame_stride: Take every so many-th frame of the stream.
        fps: Take the frames nearest to this rate's moments instead. Not together with ``frame_stride``.
        train: Random clips, drawn from torch's global generator; False: fixed ones.
        clips_per_video: Fixed clips of a video, evenly spaced from its first frame to its last; a single
            one lies in the middle.

    Raises:
        ValueError: If the numbers do not fit each other.

    Example:
        >>> middle = Clipping(num_frames=5, frame_stride=2, train=False)
        >>> with VideoFile(sample_clips("eval")[0]) as video:
        ...     len(middle(video))
        5
    """

    def __init__(self, *, num_frames: int, frame_stride: int = 1, fps: float | None = None, train: bool = True,
                 clips_per_video: int = 1):
        if num_frames < 1 or frame_stride < 1 or clips_per_video < 1:
            raise ValueError("a clip takes num_frames, frame_stride and clips_per_video of at least 1, "
                             f"got {num_frames}, {frame_stride}, {clips_per_video}.")
        if fps is not None and (frame_stride != 1 or fps <= 0):
            raise ValueError("a clip takes either frame_stride or a positive fps, got "
                             f"frame_stride={frame_stride} and fps={fps}; leave one out.")
        self.num_frames, self.frame_stride, self.fps = num_frames, frame_stride, fps
        self.train, self.clips_per_video = train, clips_per_video

    def __call__(self, video: VideoFile, *, number: int = 0) -> RGBFrames:
        """The clip, T frames (H, W, 3) uint8; ``number`` is that of a fixed one.

        Raises:
            DataError: If the video is too short, or its frames differ in size.
        """
        info = video.info
        if self.fps is None:
            start = info.start + self.start_frame(info.num_frames, number=number) / info.fps
            return strided_frames(video, start=start, num_frames=self.num_frames, frame_stride=self.frame_stride)
        last = max(0.0, (info.num_frames - 1) / info.fps - (self.num_frames - 1) / self.fps)
        place = float(torch.rand((), dtype=torch.float64)) if self.train else self._place(number)
        return timed_frames(video, start=info.start + last * place, num_frames=self.num_frames, fps=self.fps)

    def start_frame(self, num_frames: int, *, number: int = 0) -> int:
        """The frame at which the clip starts, of a video with ``num_frames``."""
        last = max(0, num_frames - 1 - (self.num_frames - 1) * self.frame_stride)
        return int(torch.randint(last + 1, ())) if self.train else round(last * self._place(number))

    def _place(self, number: int) -> float:
        return number / (self.clips_per_video - 1) if self.clips_per_video > 1 else 0.5


def strided_frames(video: VideoFile, *, start: float, num_frames: int, frame_stride: int) -> RGBFrames:
    """Every ``frame_stride``-th frame from the one at ``start`` on (or at most half a period before).

    If the stream ends before (its frame count was an estimate, or its rate varies), the clip is
    moved towards the beginning by what is missing.

    Args:
        video: An open file.
        start: Seconds on the stream's clock.

    Returns:
        ``num_frames`` of (H, W, 3) uint8.

    Raises:
        DataError: If the whole stream is shorter than the clip, or its frames differ in size.

    Example:
        >>> with VideoFile(sample_clips("eval")[0]) as video:
        ...     frames = strided_frames(video, start=1.0, num_frames=2, frame_stride=3)
        >>> [tuple(frame.shape) for frame in frames]
        [(144, 176, 3), (144, 176, 3)]
    """
    period, needed = 1.0 / video.info.fps, (num_frames - 1) * frame_stride + 1
    back = 1
    while True:
        taken, count = [], 0
        first = start - 0.5 * period if start > video.info.start else -math.inf
        for _, frame in dropwhile(lambda item, first=first: item[0] < first, video.frames_from(start)):
            if count % frame_stride == 0:
                taken.append(frame)
            count += 1
            if len(taken) == num_frames:
                return RGBFrames(taken, path=video.path)
        if start <= video.info.start:
            raise unreadable(
                video.path, f"needed {needed} frames ({num_frames} with stride {frame_stride}), got "
                            f"{count}; ask for shorter clips or leave the file out.")
        start = max(video.info.start, start - back * (needed - count) * period)
        back *= 2  # where the average rate says little, do not creep


def timed_frames(video: VideoFile, *, start: float, num_frames: int, fps: float) -> RGBFrames:
    """The frames nearest to ``start + k / fps`` for k in 0 ... num_frames - 1, by their timestamps.

    Args:
        video: An open file.
        start: Seconds on the stream's clock; moved towards the beginning if the stream ends before.

    Returns:
        ``num_frames`` of (H, W, 3) uint8.

    Raises:
        DataError: If the whole stream is shorter than the clip, or its frames differ in size.

    Example:
        >>> with VideoFile(sample_clips("eval")[0]) as video:
        ...     len(timed_frames(video, start=0.0, num_frames=4, fps=10.0))
        4
    """
    back = 1
    while True:
        taken, last = _nearest(video, [start + k / fps for k in range(num_frames)])
        if len(taken) == num_frames:
            return RGBFrames(taken, path=video.path)
        if start <= video.info.start:
            raise unreadable(
                video.path, f"needed {num_frames} frames at {fps:g} per second, which is "
                            f"{(num_frames - 1) / fps:.3f} s, got {last - video.info.start:.3f} s; "
                            "ask for shorter clips or leave the file out.")
        missing = start + (num_frames - 1) / fps - last
        start = max(video.info.start, start - back * max(missing, 1.0 / video.info.fps))
        back *= 2


def _nearest(video: VideoFile, wanted: list[float]) -> tuple[list[av.VideoFrame], float]:
    """The frame nearest to each moment, as far as the stream goes, and the last frame's seconds."""
    taken, before = [], None  # before: (seconds, frame) of the frame that may still be the nearest
    for seconds, frame in video.frames_from(wanted[0]):
        if before is not None:
            middle = (before[0] + seconds) / 2
            while len(taken) < len(wanted) and wanted[len(taken)] <= middle:
                taken.append(before[1])
        if len(taken) == len(wanted):
            return taken, seconds
        before = (seconds, frame)
    if before is None:
        return taken, video.info.start
    # the last frame is shown for one period, and is the nearest for half of it
    while len(taken) < len(wanted) and wanted[len(taken)] <= before[0] + 0.5 / video.info.fps:
        taken.append(before[1])
    return taken, before[0]

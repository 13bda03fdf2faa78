"""Clips from a few small videos that are decoded once and kept."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor

from toolkit.data.datasets.videos import VideoClips
from toolkit.data.reading.files import unreadable
from toolkit.data.reading.transforms import resize
from toolkit.data.reading.video_file import VideoFile, rgb
from toolkit.data.reading.video_io import stack
from toolkit.registry import DATASETS


@DATASETS.register_module()
class InMemoryClips(VideoClips):
    """As ``VideoClips``, of a few short videos: each is decoded once, and its small frames are kept.

    A file is read whole at its first use and kept as uint8 at the largest size that clips are cut
    from; each worker process keeps its own. A clip then costs a slice instead of a decode, which
    on a CPU would take longer than a small network's training step.

    Args:
        path, num_frames, size, short_edge, frame_stride, train, flip, channel_shuffle, clips_per_video,
            samples: As ``VideoClips``'s. With a (lo, hi) short edge, frames are resized twice: to hi, then
            to what is drawn.

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a file is no video or too short.

    Example:
        >>> import torch
        >>> clips = InMemoryClips(num_frames=5, size=64, train=False, clips_per_video=2)   # carphone
        >>> torch.equal(clips[1]["pixels"],
        ...             VideoClips(num_frames=5, size=64, train=False, clips_per_video=2)[1]["pixels"])
        True
    """

    def __init__(self, *, path: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
                 num_frames: int = 17, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, frame_stride: int = 1,
                 train: bool = True, flip: float = 0.5, channel_shuffle: float = 0.0, clips_per_video: int = 1,
                 samples: str = "demo"):
        super().__init__(path=path, num_frames=num_frames, size=size, short_edge=short_edge,
                         frame_stride=frame_stride, train=train, flip=flip, channel_shuffle=channel_shuffle,
                         clips_per_video=clips_per_video, samples=samples)
        self._decoded: dict[int, Tensor] = {}

    def _clip(self, number: int, clip: int) -> Tensor:
        if number not in self._decoded:
            self._decoded[number] = self._decode(number)
        frames = self._decoded[number]
        num_frames, stride = self.clipping.num_frames, self.clipping.frame_stride
        span = (num_frames - 1) * stride + 1
        if len(frames) < span:
            raise unreadable(self.files[number], f"needed {span} frames ({num_frames} with stride {stride}), got "
                             f"{len(frames)}; ask for shorter clips or leave the file out.")
        start = self.clipping.start_frame(len(frames), number=clip)
        return frames[start:start + span:stride]

    def _decode(self, number: int) -> Tensor:
        """All frames of a file, (T, H, W, 3) uint8."""
        with VideoFile(self.files[number]) as video:
            frames = [self._small(rgb(frame)) for _, frame in video.frames_from()]
        if not frames:
            raise unreadable(self.files[number], "needed at least one frame, got none; leave the file out.")
        return stack(frames, path=self.files[number])

    def _small(self, frame: Tensor) -> Tensor:
        return resize(frame[None], size=self.framing.largest(*frame.shape[:2]))[0]

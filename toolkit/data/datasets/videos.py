"""Clips from video files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch.utils.data
from torch import Tensor

from toolkit.contracts import Dataset
from toolkit.data.datasets.sample_clips import list_videos
from toolkit.data.reading.clips import Clipping, too_short
from toolkit.data.reading.files import path_in_errors, unreadable
from toolkit.data.reading.transforms import Framing, resize
from toolkit.data.reading.video_file import VideoFile, rgb
from toolkit.data.reading.video_io import stack
from toolkit.registry import DATASETS


@DATASETS.register_module()
class VideoClips(Dataset, torch.utils.data.Dataset):
    """Clips of a fixed number of frames from video files, read by seeking.

    Training draws the clip, the crop and the flip from torch's global generator. Evaluation has
    ``clips_per_video`` fixed clips per file and the centre crop.

    Args:
        path: A folder, list file, glob or file, or a list of those; see
            :func:`toolkit.data.reading.files.list_files`. None: the toolkit's sample clips.
        num_frames, frame_stride, fps, clips_per_video: See :class:`toolkit.data.reading.clips.Clipping`.
        size, short_edge, train, flip, channel_shuffle: See :class:`toolkit.data.reading.transforms.Framing`.
        samples: Sample clips of ``path=None``, "demo" or "full".

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a file is no video or too short.
        ValueError: If a number is out of range.

    Example:
        >>> clips = VideoClips(num_frames=5, size=64, train=False, clips_per_video=2)   # carphone
        >>> len(clips), clips[1]["pixels"].shape, clips.sample_size
        (2, torch.Size([3, 5, 64, 64]), (5, 64, 64))
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
        self.sample_size = (num_frames, *self.framing.size)
        self.clips_per_video = 1 if train else clips_per_video
        self.files = list_videos(path, train=train, samples=samples)

    def __len__(self) -> int:
        return len(self.files) * self.clips_per_video

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """{"pixels": (3, T, H, W) float32 in [-1, 1], "key": path, in evaluation with #clip}."""
        if not 0 <= index < len(self):
            raise IndexError(f"VideoClips has {len(self)} clips, got index {index}.")
        file, clip = divmod(index, self.clips_per_video)
        path = self.files[file]
        key = str(path) if self.clips_per_video == 1 else f"{path}#{clip}"
        with path_in_errors(path):
            return {"pixels": self.framing(self._clip(file, clip)), "key": key}

    def _clip(self, file: int, clip: int) -> Sequence[Tensor]:
        """T frames (H, W, 3) uint8 of a file, by its number; ``clip`` counts its clips in evaluation."""
        with VideoFile(self.files[file]) as video:
            return self.clipping(video, number=clip)


@DATASETS.register_module()
class InMemoryClips(VideoClips):
    """``VideoClips`` of a few short videos, which are decoded once and kept in memory.

    The first use of a file decodes all of it; its frames stay in memory as uint8, at the largest size
    that clips are cropped from, in each worker process separately. A clip then costs a slice instead of
    a decode, which on a CPU takes longer than a training step of a small network.

    Args:
        path, num_frames, size, short_edge, frame_stride, train, flip, channel_shuffle, clips_per_video,
            samples: See ``VideoClips``. With a (lo, hi) short edge, frames are resized twice: to hi, then
            to the drawn size.

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a file is no video or too short.

    Example:
        >>> options = dict(num_frames=5, size=64, train=False, clips_per_video=2)   # of carphone
        >>> torch.equal(InMemoryClips(**options)[1]["pixels"], VideoClips(**options)[1]["pixels"])
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

    def _clip(self, file: int, clip: int) -> Tensor:
        if file not in self._decoded:
            self._decoded[file] = self._decode(file)
        frames = self._decoded[file]
        num_frames, stride = self.clipping.num_frames, self.clipping.frame_stride
        span = (num_frames - 1) * stride + 1
        if len(frames) < span:
            raise too_short(self.files[file], needed=f"{span} frames ({num_frames} with stride {stride})",
                            got=f"{len(frames)}")
        start = self.clipping.start_frame(len(frames), number=clip)
        return frames[start:start + span:stride]

    def _decode(self, file: int) -> Tensor:
        """All frames of a file, (T, H, W, 3) uint8."""
        with VideoFile(self.files[file]) as video:
            frames = [self._resize(rgb(frame)) for _, frame in video.frames_from()]
        if not frames:
            raise unreadable(self.files[file], "needed at least one frame, got none; remove the file.")
        return stack(frames, path=self.files[file])

    def _resize(self, frame: Tensor) -> Tensor:
        return resize(frame[None], size=self.framing.largest(*frame.shape[:2]))[0]

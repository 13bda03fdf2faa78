"""Images from files, as clips of one frame."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch.utils.data
from torch import Tensor

from toolkit.contracts import Dataset
from toolkit.data.datasets.sample_clips import list_videos
from toolkit.data.reading.clips import strided_frames
from toolkit.data.reading.files import list_files, path_in_errors
from toolkit.data.reading.images import IMAGE_SUFFIXES, image_frame
from toolkit.data.reading.transforms import Framing
from toolkit.data.reading.video_file import VideoFile
from toolkit.registry import DATASETS

FRAMES_PER_CLIP = 16  # of each sample clip, if there is no path


@DATASETS.register_module()
class Images(Dataset, torch.utils.data.Dataset):
    """Images from files, as clips of one frame.

    Args:
        path: A folder, list file, glob or file, or a list of those; see
            :func:`toolkit.data.reading.files.list_files`. None: 16 evenly spaced frames of each sample clip.
        size, short_edge, train, flip, channel_shuffle: See :class:`toolkit.data.reading.transforms.Framing`.
        samples: Sample clips of ``path=None``, "demo" or "full".

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a file is no image.
        ValueError: If a number is out of range.

    Example:
        >>> images = Images(size=64, train=False)   # frames of carphone
        >>> len(images), images[3]["pixels"].shape, images.sample_size
        (16, torch.Size([3, 1, 64, 64]), (1, 64, 64))
    """

    modality = "image"

    def __init__(self, *, path: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
                 size: int | tuple[int, int] = 128, short_edge: int | tuple[int, int] | None = None,
                 train: bool = True, flip: float = 0.5, channel_shuffle: float = 0.0,
                 samples: str = "demo"):
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)
        self.sample_size = (1, *self.framing.size)
        self.files = [] if path is None else list_files(path, suffixes=IMAGE_SUFFIXES)
        self.clips = list_videos(None, train=train, samples=samples) if path is None else []

    def __len__(self) -> int:
        return len(self.files) or len(self.clips) * FRAMES_PER_CLIP

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """{"pixels": (3, 1, H, W) float32 in [-1, 1], "key": path, with #frame for a sample clip}."""
        if not 0 <= index < len(self):
            raise IndexError(f"Images has {len(self)} images, got index {index}.")
        if self.files:
            with path_in_errors(file := self.files[index]):
                return {"pixels": self.framing(image_frame(file)), "key": str(file)}
        clip, place = divmod(index, FRAMES_PER_CLIP)
        with VideoFile(self.clips[clip]) as video:
            number = place * (video.info.num_frames - 1) // (FRAMES_PER_CLIP - 1)
            frame, = strided_frames(video, start=video.info.start + number / video.info.fps,
                                    num_frames=1, frame_stride=1)
        return {"pixels": self.framing(frame[None]), "key": f"{self.clips[clip]}#{number}"}

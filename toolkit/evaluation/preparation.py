"""The samples of a protocol: resize, crop and choice of clips as in published evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from toolkit.contracts import DataError, Dataset
from toolkit.data import Images, VideoClips
from toolkit.data.loading.sampling import mix
from toolkit.data.reading.media import open_video
from toolkit.data.reading.transforms import check_enlargement, to_pixels
from toolkit.data.reading.transforms import resize as bicubic
from toolkit.evaluation.protocol import Protocol


def _bilinear(frames: Tensor, *, size: tuple[int, int]) -> Tensor:
    planes = F.interpolate(rearrange(frames, "t h w c -> t c h w").float(), mode="bilinear", size=size)
    return rearrange(planes.round().to(torch.uint8), "t c h w -> t h w c")


def _by_pillow(frames: Tensor, *, size: tuple[int, int], filter_: Image.Resampling) -> Tensor:
    arrays = [np.asarray(Image.fromarray(frame.numpy()).resize(size[::-1], filter_)) for frame in frames]
    return torch.from_numpy(np.stack(arrays))


_FILTERS: dict[str, Callable[..., Tensor]] = {  # name in RESIZES -> the last resize
    "short edge, bicubic": bicubic, "squash, bicubic": bicubic,
    "short edge, Lanczos": partial(_by_pillow, filter_=Image.Resampling.LANCZOS),
    "short edge, bilinear without antialiasing": _bilinear,
    "halve by box, then short edge, bicubic": partial(_by_pillow, filter_=Image.Resampling.BICUBIC)}


def prepare(frames: Sequence[Tensor], protocol: Protocol) -> Tensor:
    """T frames (H, W, 3) uint8 of any size -> pixels (3, T, size, size) in [-1, 1], as the protocol says."""
    frames, size, resize = torch.stack(list(frames)), protocol.size, protocol.resize
    while resize.startswith("halve") and min(frames.shape[1:3]) >= 2 * size:
        half = frames.shape[1] // 2, frames.shape[2] // 2
        frames = _by_pillow(frames, size=half, filter_=Image.Resampling.BOX)
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    target_size = max(size, round(height * scale)), max(size, round(width * scale))
    if resize.startswith("squash"):
        target_size = size, size
    check_enlargement(height, width, resized=target_size, side=size)
    frames = _FILTERS[resize](frames, size=target_size)
    # A random crop is the same in every run: the loader seeds torch for each sample.
    top, left = (int(torch.randint(side - size + 1, ())) if protocol.crop == "random" else (side - size) // 2
                 for side in target_size)
    return to_pixels(frames[:, top:top + size, left:left + size])


def cast_values(reconstruction: Tensor, value_type: str) -> Tensor:
    """The reconstruction; for the type "uint8" clamped to [-1, 1] and rounded to 8 bits."""
    if value_type == "float":
        return reconstruction
    return ((reconstruction.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


class Subset(Dataset, torch.utils.data.Dataset):
    """The samples at some indices of a dataset; if indices repeat, "#position" is added to every key."""

    def __init__(self, dataset: Any, *, indices: list[int]):
        self.dataset, self.indices, self.modality = dataset, indices, dataset.modality
        self.repeats = len(set(indices)) < len(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[self.indices[index]]
        return sample | {"key": f"{sample['key']}#{index}"} if self.repeats else sample


def build_dataset(protocol: Protocol, path: str | Path | None, *, limit: int | None = None,
                  exact: bool = True) -> Dataset:
    """The samples of a protocol in a fixed order; with ``limit`` so many, evenly spaced (random clips: the first).

    With ``exact``, a number of spread clips or images other than the protocol's, or below ``limit``, is a DataError.
    """
    options: dict[str, Any] = {"path": None if path is None else str(path), "size": protocol.size, "samples": "full"}
    random_clips = protocol.clip_choice == "random"
    if protocol.modality == "video":
        dataset = VideoClips(**options, num_frames=protocol.num_frames, frame_stride=protocol.frame_stride,
                             fps=protocol.fps, clips_per_video=protocol.clips_per_video, train=random_clips)
        if path is None:  # the evaluation split of the sample clips
            dataset.files = VideoClips(**options, train=False).files
    else:
        dataset = Images(**options, train=False)
    dataset.framing = partial(prepare, protocol=protocol)  # replaces the data set's own resize and crop
    if random_clips:
        count, total = len(dataset.files), protocol.num_samples
        repeated = [mix("protocol", "file", number) % count for number in range(count, total)]
        return Subset(dataset, indices=[*range(min(count, total)), *repeated][:limit])
    if limit is not None and limit < len(dataset):
        return Subset(dataset, indices=[number * len(dataset) // limit for number in range(limit)])
    if exact and (limit is None or limit > len(dataset)) and protocol.num_samples not in (None, len(dataset)):
        raise DataError(f"{protocol} needs {protocol.num_samples} samples, got {len(dataset)} at {path}; set --data to "
                        f"the whole split, or --limit {len(dataset)}, which is another protocol.")
    return dataset


def files_of(dataset: Any) -> list[str]:
    """All files of the dataset, sorted, whatever the limit. Files are independent; clips of one file are not."""
    dataset = getattr(dataset, "dataset", dataset)
    return sorted(str(file) for file in dataset.files or dataset.clips)


def file_of(key: str, files: Collection[str]) -> str:
    """The file of a sample: its key without the suffixes "#number"."""
    while key not in files and "#" in key:
        key = key.rpartition("#")[0]
    return key


def block_numbers(files: list[str], *, max_blocks: int = 20) -> dict[str, int]:
    """File -> number of its block; more than ``max_blocks`` files share blocks in sorted order."""
    count = min(len(files), max_blocks)
    return {file: number * count // len(files) for number, file in enumerate(sorted(files))}


def frame_rate(protocol: Protocol, files: list[str]) -> float | None:
    """Frames per second of the clips, a harmonic mean over the files; None for images, or if no file has a rate."""
    if protocol.modality == "image":
        return None
    if protocol.fps is not None:
        return protocol.fps
    periods = []
    for file in files:
        with contextlib.suppress(DataError), open_video(file) as video:  # reported when its clips are read
            periods.append(protocol.frame_stride / video.fps)
    return len(periods) / sum(periods) if periods else None

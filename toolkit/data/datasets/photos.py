"""Clips cut from photos by the motion of a virtual camera."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.data
from torch import Tensor

from toolkit.contracts import Dataset
from toolkit.data.datasets.camera import CameraPath, camera_path
from toolkit.data.reading.files import IMAGE_SUFFIXES, Paths, list_files, path_in_errors
from toolkit.data.reading.images import FirstFrames
from toolkit.data.reading.transforms import Framing, resize, to_pixels
from toolkit.data.seeding import mix
from toolkit.registry import DATASETS

MARGIN = 4  # pixels of a photo kept around what a clip shows, for the resize


@DATASETS.register_module()
class PhotoClips(Dataset, torch.utils.data.Dataset):
    """Clips cut from photos by a smooth random pan, zoom and rotation; some clips are still.

    The frame never leaves the photo. A motion that does not fit into the photo is made smaller; if a turned or distant
    frame does not fit, the camera moves nearer. A ``short_edge`` of about 1.5 times the size leaves room.

    Each photo is one clip per epoch. Photos are kept in memory as uint8, at the largest size that clips are cut from,
    in each worker process, because decoding a photo takes far longer than cutting a clip. Beyond
    ``photos_in_memory`` the least recently used photo is dropped.

    Args:
        path: See :func:`toolkit.data.reading.files.list_files`.
        num_frames: T of each clip. With 1 the modality is "image".
        size, short_edge, train, flip, channel_shuffle: See :class:`toolkit.data.reading.transforms.Framing`; the
            short edge is the photo's. In evaluation each photo has one fixed motion around its middle.
        photos_in_memory: Number of photos kept; a photo with a short edge of 256 takes about 0.3 MB.

    Raises:
        ValueError: If a number is out of range or not whole.
        DataError: If there is nothing at ``path``; when a file is read, if it is no image or too long and thin.

    Example:
        >>> import tempfile
        >>> from toolkit.data import write_image
        >>> folder = tempfile.mkdtemp()
        >>> write_image(f"{folder}/0.png", torch.zeros(3, 1, 60, 80))
        >>> clips = PhotoClips(path=folder, num_frames=5, size=32, short_edge=48)
        >>> len(clips), clips[0]["pixels"].shape, clips[0]["key"][-5:]
        (1, torch.Size([3, 5, 32, 32]), '0.png')
    """

    def __init__(self, *, path: Paths, num_frames: int = 17, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, train: bool = True, flip: float = 0.5,
                 channel_shuffle: float = 0.0, photos_in_memory: int = 1000):
        if path is None:
            raise ValueError("PhotoClips takes the path of photos, got None; name a folder, a list file, a glob or "
                             "files, or use SyntheticClips, which needs none.")
        if not all(isinstance(count, int) and count >= 1 for count in (num_frames, photos_in_memory)):
            raise ValueError("PhotoClips takes whole num_frames and photos_in_memory of at least 1, got "
                             f"{num_frames} and {photos_in_memory}.")
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)
        self.num_frames, self.photos_in_memory = num_frames, photos_in_memory
        self.modality = "image" if num_frames == 1 else "video"
        self.sample_size = (num_frames, *self.framing.size)
        self.files = list_files(path, suffixes=IMAGE_SUFFIXES)
        self._first_frame = FirstFrames()
        self._photos: OrderedDict[Path, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """{"pixels": (3, T, H, W) float32 in [-1, 1], "key": path}."""
        if not 0 <= index < len(self):
            raise IndexError(f"PhotoClips has {len(self)} photos, got index {index}.")
        train = self.framing.train
        seed = int(torch.randint(2**62, ())) if train else mix("photo clip", int(index))
        with path_in_errors(file := self.files[index]):
            photo = self._photo(file)
            windows = random_windows(np.random.default_rng(seed), self.framing.resized(*photo.shape[:2]),
                                     num_frames=self.num_frames, size=self.framing.size, centred=not train)
            frames = sample(photo, windows, size=self.framing.size)
        return {"pixels": to_pixels(self.framing.augment(frames)).contiguous(), "key": str(file)}

    def _photo(self, file: Path) -> Tensor:
        """(H, W, 3) uint8, at the largest size that clips are cut from."""
        if file not in self._photos:
            frame = self._first_frame(file)
            self._photos[file] = resize(frame, size=self.framing.largest(*frame.shape[1:3]))[0]
            if len(self._photos) > self.photos_in_memory:
                self._photos.popitem(last=False)
        self._photos.move_to_end(file)
        return self._photos[file]


class Windows(NamedTuple):
    """Where the T frames of a clip lie in a photo.

    The pixel in row i and column j of a frame, counted from its middle, is at centre + to_photo (i, j) in the photo.
    """

    photo_size: tuple[int, int]  # (H, W); the other fields are in pixels of a photo of this size
    centre: np.ndarray  # (2, T)
    to_photo: np.ndarray  # (2, 2, T)

    def reach(self, size: tuple[int, int]) -> np.ndarray:
        """(2, T) the largest distance in rows and columns of a pixel of the frame from its centre."""
        half = (np.array(size, float).reshape(1, 2, 1) - 1) / 2
        return (np.abs(self.to_photo) * half).sum(1)


def random_windows(rng: np.random.Generator, photo_size: tuple[int, int], *, num_frames: int, size: tuple[int, int],
                   centred: bool) -> Windows:
    """Windows of a random motion that lie in a photo that is at least as large as a frame.

    The path has a random place in the photo; if ``centred``, the middle of the possible places.
    """
    camera = CameraPath(*(path.astype(float) for path in camera_path(rng, num_frames=num_frames)))
    sine, cosine = np.sin(camera.angle), np.cos(camera.angle)
    to_photo = np.exp(-camera.zoom) * np.array([[cosine, -sine], [sine, cosine]])
    last = np.array(photo_size, float) - 1  # row and column
    reach = Windows(photo_size, camera.shift, to_photo).reach(size)
    nearer = min(1.0, *(last / np.maximum(2 * reach.max(1), 1e-9)))
    centre = np.empty((2, num_frames))
    for axis, (path, limit) in enumerate(zip(camera.shift * np.array(size)[:, None], nearer * reach, strict=True)):
        path = path * _largest_factor(path, limit, last[axis])
        lowest, highest = np.max(limit - path), np.min(last[axis] - limit - path)
        place = 0.5 if centred else rng.random()
        centre[axis] = path + lowest + place * max(0.0, highest - lowest)
    return Windows(photo_size, centre, nearer * to_photo)


def _largest_factor(path: np.ndarray, reach: np.ndarray, last: float) -> float:
    """The largest factor up to 1 by which a path (T,), shifted as needed, stays within [reach, last - reach]."""
    rises = path[None] - path[:, None]  # from each frame to each other
    room = np.maximum(last - reach[None] - reach[:, None], 0)
    return float(np.min(room[rises > 0] / rises[rises > 0], initial=1.0))


def sample(photo: Tensor, windows: Windows, *, size: tuple[int, int]) -> Tensor:
    """Cut the frames (T, *size, 3) of windows from a photo (H, W, 3) uint8, bilinear; float32 whole numbers.

    The photo may have another size than ``windows.photo_size``. If a frame's pixels are larger than the photo's, the
    photo is reduced first, with antialiasing.
    """
    scale = np.array(photo.shape[:2], float) / windows.photo_size
    centre = (windows.centre + 0.5) * scale[:, None] - 0.5
    to_photo = windows.to_photo * scale[:, None, None]
    reach = windows.reach(size) * scale[:, None]
    first = np.maximum(np.floor((centre - reach).min(1)).astype(int) - MARGIN, 0)
    after = np.minimum(np.ceil((centre + reach).max(1)).astype(int) + MARGIN + 1, photo.shape[:2])
    crop = photo[first[0]:after[0], first[1]:after[1]]
    step = np.sqrt((to_photo**2).sum(0)).max()  # of the farthest frame, in pixels of the photo
    if step > 1.001:
        crop = resize(crop[None], size=tuple(np.maximum(np.round((after - first) / step), 1).astype(int).tolist()))[0]
    factor = np.array(crop.shape[:2]) / (after - first)  # of the resize above, rows and columns
    centre, to_photo = (centre - first[:, None] + 0.5) * factor[:, None] - 0.5, to_photo * factor[:, None, None]
    points = [_points(centre[axis], to_photo[axis], size, crop.shape[axis]) for axis in (1, 0)]
    planes = crop.permute(2, 0, 1)[None].float().expand(len(points[0]), -1, -1, -1)
    frames = F.grid_sample(planes, torch.from_numpy(np.stack(points, -1)), padding_mode="border", align_corners=True)
    return frames.round_().permute(0, 2, 3, 1)


def _points(centre: np.ndarray, factors: np.ndarray, size: tuple[int, int], length: int) -> np.ndarray:
    """Rows or columns (T, *size) of a frame's pixels in an image with ``length`` of them, from -1 to 1."""
    half = max((length - 1) / 2, 0.5)
    rows, columns = (np.arange(count) - (count - 1) / 2 for count in size)
    down, right = (factor[:, None] * steps / half for factor, steps in zip(factors, (rows, columns), strict=True))
    start = (down + centre[:, None] / half - 1).astype(np.float32)
    return start[:, :, None] + right.astype(np.float32)[:, None]

"""Images from files, as clips of one frame."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence

import numpy as np
import torch
import torch.utils.data
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from toolkit.contracts import Dataset
from toolkit.data.datasets.videos import strided_frames, video_files
from toolkit.data.reading.files import about, list_files, unreadable
from toolkit.data.reading.transforms import Framing, to_frames, to_pixels
from toolkit.data.reading.video_file import VideoFile
from toolkit.io.atomic_write import atomic_write
from toolkit.registry import DATASETS

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FRAMES_PER_CLIP = 16  # of each sample clip, where no path is given


@DATASETS.register_module()
class Images(Dataset, torch.utils.data.Dataset):
    """Images from files, as clips of one frame.

    Args:
        path: A folder (searched recursively), a list file (``.txt``, one path per line, relative to
            it), a glob, a file, or a list of those. None: 16 evenly spaced frames of each of the
            toolkit's real sample clips.
        size: (H, W) of the pixels, or one number for both.
        short_edge: Pixels of the short edge after the resize, (lo, hi) to draw it in training;
            None: the smallest resize that covers ``size``.
        train: Random crop and flip; False: the centre crop.
        flip: Probability of a horizontal flip in training.
        channel_shuffle: Probability of a random order of R, G and B in training.
        samples: Which sample clips ``path=None`` means, "demo" or "full".

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a file is no image.
        ValueError: If the numbers do not fit each other.

    Example:
        >>> images = Images(size=64, train=False)   # frames of carphone
        >>> len(images), images[3]["pixels"].shape
        (16, torch.Size([3, 1, 64, 64]))
    """

    modality = "image"

    def __init__(self, *, path: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
                 size: int | tuple[int, int] = 128, short_edge: int | tuple[int, int] | None = None,
                 train: bool = True, flip: float = 0.5, channel_shuffle: float = 0.0,
                 samples: str = "demo"):
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)
        self.files = [] if path is None else list_files(path, suffixes=IMAGE_SUFFIXES)
        self.clips = video_files(None, train=train, samples=samples) if path is None else []

    def __len__(self) -> int:
        return len(self.files) or len(self.clips) * FRAMES_PER_CLIP

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """{"pixels": (3, 1, H, W) float32 in [-1, 1], "key": path, with #frame for a sample clip}."""
        if not 0 <= index < len(self):
            raise IndexError(f"Images has {len(self)} images, got index {index}.")
        if self.files:
            with about(file := self.files[index]):
                return {"pixels": self.framing(image_frame(file)), "key": str(file)}
        clip, place = divmod(index, FRAMES_PER_CLIP)
        with VideoFile(self.clips[clip]) as video:
            number = place * (video.info.num_frames - 1) // (FRAMES_PER_CLIP - 1)
            frame, = strided_frames(video, start=video.info.start + number / video.info.fps,
                                    num_frames=1, frame_stride=1)
        return {"pixels": self.framing(frame[None]), "key": f"{self.clips[clip]}#{number}"}


def read_image(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None) -> Tensor:
    """An image file as pixels, upright and in three channels.

    Grey becomes three equal channels, 16-bit grey is rescaled to 8 bits, transparency is composited
    on white, the EXIF orientation is applied, and of an animation the first frame is read.

    Args:
        source: The file, or all of its bytes.
        name: What errors call it; None: ``source``, if that is a path.

    Returns:
        (3, 1, H, W) float32 in [-1, 1].

    Raises:
        DataError: If the file is no image that Pillow can read.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "white.png")
        >>> Image.new("L", (6, 4), 255).save(path)
        >>> read_image(path).shape, read_image(path).min().item()
        (torch.Size([3, 1, 4, 6]), 1.0)
    """
    return to_pixels(image_frame(source, name=name))


def write_image(path: str | os.PathLike, pixels: Tensor) -> None:
    """Write one image, whole or not at all; the ending says how (``.png`` is lossless).

    Args:
        path: The file to write; its folder must exist.
        pixels: (3, 1, H, W) of about [-1, 1], clamped and rounded to 8 bits.

    Raises:
        ValueError: If the pixels have another shape.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "black.png")
        >>> write_image(path, torch.full((3, 1, 4, 6), -1.0))
        >>> read_image(path).unique().tolist()
        [-1.0]
    """
    if pixels.ndim != 4 or pixels.shape[0] != 3 or pixels.shape[1] != 1:
        raise ValueError(f"write_image takes pixels (3, 1, H, W), got {tuple(pixels.shape)}; "
                         "write one frame of one sample at a time.")
    options = {"quality": 95} if os.fspath(path).lower().endswith((".jpg", ".jpeg", ".webp")) else {}
    with atomic_write(path) as part:
        Image.fromarray(to_frames(pixels)[0].numpy()).save(part, **options)


def image_frame(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None) -> Tensor:
    """An image file as :func:`read_image` has it, in 8 bits.

    Returns:
        (1, H, W, 3) uint8.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (6, 4), 9).save(file, "png")
        >>> image_frame(file.getvalue()).unique()
        tensor([9], dtype=torch.uint8)
    """
    held = isinstance(source, bytes)
    path = name or ("bytes" if held else source)
    try:
        with Image.open(io.BytesIO(source) if held else source) as image:
            upright = ImageOps.exif_transpose(image)
            pixels = np.array(_three_channels(upright, path))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error, Image.DecompressionBombError) as error:
        # Pillow raises any of these for a torn or foreign file
        problem = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise unreadable(path, f"needed an image that Pillow can read, got {problem}; "
                               "check the file, convert it or leave it out.") from error
    return torch.from_numpy(pixels)[None]


def _three_channels(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    if image.mode == "F":
        raise unreadable(path, "needed 8- or 16-bit values, got floats of unknown range; convert the image.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255
        wide, clear = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(np.clip(np.round(wide.astype(np.float64) / 257.0), 0, 255).astype(np.uint8))
        if clear is not None:  # the one value, of 16 bits, that is transparent
            image.putalpha(Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layers)
    return image.convert("RGB")

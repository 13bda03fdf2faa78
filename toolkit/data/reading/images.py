"""Image files: read one as pixels, write one."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from toolkit.data.reading.files import unreadable
from toolkit.data.reading.transforms import to_frames, to_pixels
from toolkit.io.atomic_write import atomic_write


def read_image(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None) -> Tensor:
    """An image file, or all of its bytes, as pixels (3, 1, H, W) float32 in [-1, 1].

    Grey becomes three equal channels, 16-bit grey is rescaled to 8 bits, transparency is composited
    on white, the EXIF orientation is applied, and of an animation the first frame is read. A file that
    Pillow cannot read raises a DataError with its ``name``, by default ``source``.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "white.png")
        >>> Image.new("L", (6, 4), 255).save(path)
        >>> read_image(path).shape, read_image(path).min().item()
        (torch.Size([3, 1, 4, 6]), 1.0)
    """
    return to_pixels(image_frame(source, name=name))


def write_image(path: str | os.PathLike, pixels: Tensor) -> None:
    """Write one image, completely or not at all; the suffix chooses the format (``.png`` is lossless).

    ``pixels`` (3, 1, H, W) of about [-1, 1] are clamped and rounded to 8 bits; the folder of ``path`` must exist.

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
    with atomic_write(path) as partial:
        Image.fromarray(to_frames(pixels)[0].numpy()).save(partial, **options)


def image_frame(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None) -> Tensor:
    """The image of :func:`read_image` as one frame, (1, H, W, 3) uint8."""
    is_bytes = isinstance(source, bytes)
    path = name or ("bytes" if is_bytes else source)
    try:
        with Image.open(io.BytesIO(source) if is_bytes else source) as image:
            upright = ImageOps.exif_transpose(image)
            pixels = np.array(_three_channels(upright, path))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error, Image.DecompressionBombError) as error:
        # Pillow raises any of these for a truncated file or another format
        problem = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise unreadable(path, f"needed an image that Pillow can read, got {problem}; "
                               "check the file, convert it or remove it.") from error
    return torch.from_numpy(pixels)[None]


def _three_channels(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    if image.mode == "F":
        raise unreadable(path, "needed 8- or 16-bit values, got floats of unknown range; convert the image.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255
        wide, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(np.clip(np.round(wide.astype(np.float64) / 257.0), 0, 255).astype(np.uint8))
        if transparent is not None:  # one 16-bit value
            image.putalpha(Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layers)
    return image.convert("RGB")

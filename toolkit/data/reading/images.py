"""Image files as frames and pixels (Pillow)."""

from __future__ import annotations

import io
import logging
import os
from functools import lru_cache

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from toolkit.data.reading.files import name_of, unreadable
from toolkit.data.reading.formats import count_frames, image_errors, no_image, open_image
from toolkit.data.reading.transforms import to_pixels

logger = logging.getLogger(__name__)

GREY_STEPS = {"L;2": 85, "L;4": 17}  # raw mode of a PNG -> grey levels between two of its values
PROFILE_SPACES = {"L": ("GRAY", "RGB "), "RGB": ("RGB ",), "CMYK": ("CMYK",)}  # profiles that fit an image's mode


def read_image(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None) -> Tensor:
    """An image file, or all of its bytes, as pixels (3, 1, H, W) float32 in [-1, 1].

    The content decides the format; see ``toolkit/data/README.md`` for the formats. Grey becomes three equal channels,
    16-bit grey is rescaled to 8 bits, transparency is composited on white, and the EXIF orientation is applied.
    Embedded ICC profiles are converted to sRGB (perceptual); a damaged profile, or one for another colour space, is
    ignored with a warning. Only the first frame or page is read. A file that Pillow cannot read raises a DataError
    with its ``name``, by default ``source``.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (6, 4), 255).save(file, "png")
        >>> read_image(file.getvalue()).shape, read_image(file.getvalue()).min().item()
        (torch.Size([3, 1, 4, 6]), 1.0)
    """
    return to_pixels(image_frame(source, name=name))


def image_frame(source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None) -> Tensor:
    """The image of :func:`read_image` as one frame, (1, H, W, 3) uint8."""
    path = name_of(source, name)
    with open_image(source, path=path) as image:
        return rgb_of(image, path=path)[None]


class FirstFrames:
    """Reads images as :func:`image_frame` does, and logs the first file with more than one frame or page."""

    def __init__(self):
        self._logged = False

    def __call__(self, source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None) -> Tensor:
        """(1, H, W, 3) uint8."""
        path = name_of(source, name)
        with open_image(source, path=path) as image:
            frame = rgb_of(image, path=path)[None]
            if not self._logged and (frames := count_frames(image, path=path)) > 1:
                self._logged = True
                logger.warning("%s: only the first of %d frames is used, here and in other files of this data set.",
                               path, frames)
        return frame


def rgb_of(image: Image.Image, *, path: str | os.PathLike) -> Tensor:
    """The current frame of an open image, (H, W, 3) uint8 in sRGB, upright, on white."""
    _check_tiff(image, path)
    with image_errors(path):
        tile = getattr(image, "tile", None)
        if tile and tile[0][3] == "RGB;16B" and "transparency" in image.info:
            # Pillow keeps the upper 8 bits of the pixels, but all 16 of the transparent colour
            image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
        if tile and tile[0][3] in GREY_STEPS and "transparency" in image.info:  # Pillow scales the pixels only
            image.info["transparency"] *= GREY_STEPS[tile[0][3]]
        colour, opacity = _split(_eight_bits(ImageOps.exif_transpose(image), path))
        if profile := image.info.get("icc_profile"):
            colour = _to_srgb(colour, profile, path)
        colour = colour.convert("RGB")
        if opacity is not None:
            colour.putalpha(opacity)
            colour = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
        return torch.from_numpy(np.array(colour))


def _check_tiff(image: Image.Image, path: str | os.PathLike) -> None:
    """Raise a DataError for the kinds of TIFF files that Pillow reads wrongly."""
    tags, base = getattr(image, "tag_v2", {}), ExifTags.Base
    bits = max(np.atleast_1d(tags.get(base.BitsPerSample, 8)))
    problems = {"a small preview of a raw photo": tags.get(base.NewSubfileType, 0) & 1 and image.tell() == 0,
                "signed integers": 2 in np.atleast_1d(tags.get(base.SampleFormat, 1)),
                "32-bit integers": bits > 16 and image.mode == "I",
                "16-bit values in which 0 is white": bits == 16 and tags.get(base.PhotometricInterpretation) == 0,
                "16-bit colours in separate planes": bits == 16 and tags.get(base.PlanarConfiguration) == 2}
    if problem := next((problem for problem, holds in problems.items() if holds), None):
        raise no_image(path, problem)


def _eight_bits(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    if image.mode == "F":
        raise unreadable(path, "needed 8- or 16-bit values, got floats of unknown range; convert the image.")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    # convert("RGB") would clip at 255
    wide, transparent = np.asarray(image), image.info.get("transparency")
    grey = Image.fromarray(np.clip(np.round(wide.astype(np.float64) / 257.0), 0, 255).astype(np.uint8))
    if transparent is not None:  # one 16-bit value
        grey.putalpha(Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8)))
    return grey


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colour (mode L, RGB or CMYK) of an image, and its opacity (mode L), None if it has none."""
    if image.mode in ("La", "RGBa"):  # colour is premultiplied by the opacity
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA")
        image = image.convert("LA" if grey else "RGBA")
        return image.convert("L" if grey else "RGB"), image.getchannel("A")
    if image.mode in PROFILE_SPACES:
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _to_srgb(colour: Image.Image, profile: bytes, path: str | os.PathLike) -> Image.Image:
    """``colour`` (L, RGB or CMYK) converted from its ICC profile to sRGB; unchanged if the profile cannot be used."""
    transform, mode, problem = _transform(profile, colour.mode)
    if problem:
        _warn_once(os.fspath(path), problem)
    if transform is None:
        return colour
    return ImageCms.applyTransform(colour.convert(mode), transform)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str, str]:
    """The transform from a profile to sRGB, None if the colours stay; the mode it takes; a problem of the profile."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if space not in PROFILE_SPACES[mode]:
            return None, mode, f"its colour space is {space.strip()}, the image's is {mode}"
        mode = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}[space]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        return None, mode, str(error) or type(error).__name__
    if mode != "CMYK":
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
        before = Image.fromarray(colours)
        after = ImageCms.applyTransform(before, transform)
        if np.abs(np.array(before.convert("RGB"), int) - np.array(after, int)).max() <= 2:
            return None, mode, ""  # sRGB under any name: the difference is rounding
    return transform, mode, ""


@lru_cache(maxsize=1024)
def _warn_once(path: str, problem: str) -> None:
    logger.warning("%s: its ICC profile cannot be used (%s); the colours are taken as sRGB.", path, problem)

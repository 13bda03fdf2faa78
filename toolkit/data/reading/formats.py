"""Which files are images: their content decides (Pillow)."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from toolkit.contracts import DataError
from toolkit.data.reading.files import IMAGE_FORMATS, IMAGE_SUFFIXES, check_regular, unreadable

# Formats without a clear signature: tried last, and only for files with an image's ending.
WEAK = {"CUR", "DIB", "GBR", "ICO", "PCX", "TGA"}
ANIMATED = {"AVIF", "GIF", "PNG", "WEBP"}  # formats whose frames have durations
PAGED = {"DCX", "HEIF", "TIFF"}  # formats whose frames are pages; those of others are layers, previews or sizes

MJPEG_SUFFIXES = (".mjpeg", ".mjpg")  # videos that begin like a JPEG

AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
# Images that FFmpeg would decode as videos of one frame, without their colour and orientation.
OTHER_IMAGES = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"v/1\x01": "OpenEXR", b"SDPX": "DPX",
                b"XPDS": "DPX", b"#?RADIANCE": "Radiance HDR"}
# what Pillow's plugins raise for damaged files and other formats
IMAGE_ERRORS = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError,
                ValueError, struct.error, zlib.error, Image.DecompressionBombError)


@contextmanager
def image_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn errors of Pillow inside the block into DataErrors that name ``path``."""
    try:
        yield
    except IMAGE_ERRORS as error:
        raise no_image(path, str(error) or type(error).__name__) from error


def no_image(path: str | os.PathLike, problem: str) -> DataError:
    """The error of a file that is no readable image; ``problem`` says what it is."""
    return unreadable(path, f"needed an image that Pillow can read, got {problem}; check the file, convert it or "
                            "remove it.")


def open_image(source: str | os.PathLike | bytes, *, path: str | os.PathLike) -> Image.Image:
    """:func:`identify_image`, and a DataError if the file is no image."""
    image = identify_image(source, path=path)
    if image is None:
        raise no_image(path, "no known format")
    return image


def identify_image(source: str | os.PathLike | bytes, *, path: str | os.PathLike) -> Image.Image | None:
    """Open an image file, or all of its bytes; None if it is no image, so that it may be a video.

    The content decides. The ending of ``path``, the name in error messages, counts only for formats without a clear
    signature. A DataError is raised for a file that cannot be opened, a damaged image and an image of a format that
    Pillow cannot read.
    """
    if isinstance(source, bytes):
        head = source[:256]
    else:
        check_regular(source)
        with image_errors(path), open(source, "rb") as file:
            head = file.read(256)
    ending = Path(path).suffix.lower()
    matching = [name for name in IMAGE_FORMATS if name not in WEAK and _accepts(name, head)]
    if matching == ["JPEG"] and ending in MJPEG_SUFFIXES:
        return None
    weak = [name for name in IMAGE_FORMATS if name in WEAK and ending in IMAGE_SUFFIXES]
    image = _open(source, path, matching or weak)
    brands = _brands(head)
    if image is None and brands & HEIF_BRANDS and not brands & AVIF_BRANDS:
        image = _open_heif(source, path)
    if image is None and matching:
        raise no_image(path, f"a damaged {matching[0]}")
    if image is None and brands & AVIF_BRANDS:
        raise no_image(path, "AVIF, which needs Pillow 11.3 or later")
    if image is None and (other := [name for start, name in OTHER_IMAGES.items() if head.startswith(start)]):
        raise no_image(path, other[0])
    return image


def _accepts(name: str, head: bytes) -> bool:
    accept = Image.OPEN[name][1]  # returns a text if the library of the format is missing
    return accept is not None and accept(head[:16].ljust(16, b"\0")) is True


def _open(source: str | os.PathLike | bytes, path: str | os.PathLike, names: list[str]) -> Image.Image | None:
    with image_errors(path):
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=names)
        except UnidentifiedImageError:
            return None


def _brands(head: bytes) -> set[bytes]:
    """The brands of a file in ISO's base media format: the major one and the compatible ones."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[start:start + 4] for start in range(16, size - 3, 4))}


def _open_heif(source: str | os.PathLike | bytes, path: str | os.PathLike) -> Image.Image:
    try:
        import pillow_heif
    except ImportError as error:
        raise unreadable(path, "needed pillow-heif to read HEIC, got none; pip install pillow-heif, or convert the "
                               "file.") from error
    pillow_heif.register_heif_opener()
    image = _open(source, path, ["HEIF"])
    if image is None:
        raise no_image(path, "a damaged HEIC")
    return image


def is_animation(image: Image.Image, *, path: str | os.PathLike) -> bool:
    """Whether an open image has several frames with durations."""
    with image_errors(path):
        return image.format in ANIMATED and getattr(image, "is_animated", False)


def count_frames(image: Image.Image, *, path: str | os.PathLike) -> int:
    """How many frames or pages an open image has; layers, previews and other sizes of one image do not count."""
    with image_errors(path):
        several = image.format in ANIMATED | PAGED and getattr(image, "is_animated", False)
        return image.n_frames if several else 1

"""The table of toolkit/data/README.md: its endings are the code's, and files of each are read."""

import re
from pathlib import Path

import numpy as np
import pytest
from numbered import encode, numbers_of
from PIL import Image, features

import toolkit.data
from toolkit.data import open_media, read_image
from toolkit.data.reading.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES

ROWS = re.findall(r"^\| (image|animation|video) \| ([^|]*) \|", Path(toolkit.data.__file__).with_name(
    "README.md").read_text(), flags=re.MULTILINE)
ENDINGS = {kind: [ending for row, cell in ROWS if row == kind for ending in re.findall(r"`(\.\w+)`", cell)]
           for kind in ("image", "animation", "video")}
BLOCKS = np.kron(np.array([[0, 90], [160, 255]], np.uint8), np.ones((16, 16), np.uint8))  # grey, of 32 x 32
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
CODECS = {".avi": "mpeg4", ".mpg": "mpeg2video", ".mpeg": "mpeg1video", ".m2v": "mpeg2video", ".vob": "mpeg2video",
          ".mxf": "mpeg2video", ".wmv": "wmv2", ".flv": "flv1", ".ogv": "libvpx", ".webm": "libvpx-vp9",
          ".3gp": "mpeg4"}


def test_the_endings_of_the_table_are_those_that_are_searched_for():
    assert sorted(ENDINGS["image"] + ENDINGS["animation"]) == sorted(IMAGE_SUFFIXES)
    assert sorted(ENDINGS["video"] + ENDINGS["animation"]) == sorted(VIDEO_SUFFIXES)


def written_image(path: Path) -> np.ndarray:
    """Write BLOCKS in the first mode that the format has; returns the expected grey levels."""
    if path.suffix in HEIF_SUFFIXES:
        pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(BLOCKS).convert("RGB")).save(path, quality=-1)
        return BLOCKS
    kind = Image.registered_extensions()[path.suffix]
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow cannot write {kind}")
    for mode in ("RGB", "P", "1"):
        image = Image.fromarray(BLOCKS).convert(mode, dither=Image.Dither.NONE)
        try:
            image.save(path, kind)
        except (OSError, ValueError):  # a mode that the format lacks
            continue
        return np.array(image.convert("L"))
    pytest.skip(f"Pillow writes {kind} in other modes only")


@pytest.mark.parametrize("ending", ENDINGS["image"])
def test_an_image_of_each_ending_is_read(tmp_path, ending):
    expected = written_image(tmp_path / f"x{ending}")
    with open_media(tmp_path / f"x{ending}") as media:
        chunk, = media.chunks(9)
    assert media.fps is None and chunk.shape[1] == 1 and chunk.equal(read_image(tmp_path / f"x{ending}"))
    shown = ((chunk + 1) * 127.5)[:, 0].numpy()
    if ending == ".icns":  # which has fixed sizes, the largest of 1024
        shown = shown[:, 16::32, 16::32]
    assert shown.shape == (3, 32, 32) and np.median(np.abs(shown - expected)) <= 3


@pytest.mark.parametrize("ending", ENDINGS["animation"])
def test_an_animation_of_each_ending_is_read(tmp_path, ending):
    if ending == ".avifs" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    first, *others = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (0, 128, 255)]
    first.save(tmp_path / f"x{ending}", save_all=True, append_images=others, duration=40)
    with open_media(tmp_path / f"x{ending}") as media:
        chunk, = media.chunks(9)
    assert media.fps == 25.0
    assert [round(level) for level in ((chunk + 1) * 127.5).mean((0, 2, 3)).tolist()] == pytest.approx([0, 128, 255],
                                                                                                       abs=2)


@pytest.mark.parametrize("ending", ENDINGS["video"])
def test_a_video_of_each_ending_is_read(tmp_path, ending):
    path = encode(tmp_path / f"x{ending}", num_frames=4, codec=CODECS.get(ending, "libx264"))
    with open_media(path) as media:
        chunk, = media.chunks(9)
    assert media.fps == 25.0 and numbers_of(chunk) == [0, 1, 2, 3]

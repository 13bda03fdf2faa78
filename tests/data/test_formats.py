"""The content of a file decides whether it is an image, an animation or a video."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from avif import write_tiled_avif
from numbered import encode, numbers_of
from PIL import Image, features
from tars import noise

from toolkit.contracts import DataError
from toolkit.data import Images, iter_frames, open_media, read_image, read_video
from toolkit.data.reading.animation import Animation
from toolkit.data.reading.images import image_frame
from toolkit.data.reading.media import open_video
from toolkit.data.reading.video_file import VideoFile

BLOCKS = noise(3, height=16, width=24).repeat(8, 0).repeat(8, 1)  # (128, 192, 3)
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def frames_of(path, **options):
    with open_media(path, **options) as media:
        return torch.cat(list(media.chunks(4)), dim=1), media.fps


@needs_avif
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 3), (2, 1)])
def test_an_avif_of_several_tiles_is_whole(tmp_path, rows, columns):
    path = write_tiled_avif(tmp_path / "x.avif", BLOCKS, rows=rows, columns=columns)
    expected = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    assert expected.shape == (128, 192, 3) and (expected.int() - torch.from_numpy(BLOCKS)).abs().median() < 8
    pixels, fps = frames_of(path)
    assert fps is None and pixels.equal(read_image(path)) and image_frame(path)[0].equal(expected)
    assert read_video(path)[0][0].equal(expected)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x", "x.txt", "x.tga", "x.heic"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "bmp", "jpeg2000"])
def test_an_image_by_any_name_is_an_image(tmp_path, kind, name):
    content = saved(Image.fromarray(BLOCKS), kind)
    (tmp_path / name).write_bytes(content)
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB")) / 127.5 - 1
    for options in ({"source": tmp_path / name}, {"source": content, "name": name}):
        with open_media(**options) as media:
            chunk, = media.chunks(4)
        assert media.fps is None
        np.testing.assert_allclose(chunk[:, 0].permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tga", ".avif", ".ico", ".heic", ""])
@pytest.mark.parametrize("kind", ["x.mp4", "x.mkv", "x.ts", "x.avi"])
def test_a_video_by_any_name_is_a_video(tmp_path, kind, ending):
    path = encode(tmp_path / kind, num_frames=5, codec="mpeg4" if kind == "x.avi" else "libx264")
    path = path.rename(tmp_path / f"other{ending}")
    pixels, fps = frames_of(path)
    assert fps == 25.0 and numbers_of(pixels) == list(range(5))
    assert [frame.shape for frame in iter_frames(path)] == [(64, 64, 3)] * 5
    with open_video(path) as video:
        assert isinstance(video, VideoFile)
    with pytest.raises(DataError, match="needed an image that Pillow can read, got no known format"):
        Images(path=str(path), size=16)[0]


def test_motion_jpeg_begins_like_an_image_and_is_a_video(tmp_path):
    path = encode(tmp_path / "x.mjpeg", num_frames=3, codec="mjpeg", pix_fmt="yuvj420p")
    assert numbers_of(frames_of(path)[0]) == [0, 1, 2]


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("x.jxl", b"\xff\x0a" + bytes(64), "JPEG XL"), ("x.mp4", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "JPEG XL"),
    ("x.exr", b"v/1\x01" + bytes(64), "OpenEXR"), ("x.mp4", saved(Image.fromarray(BLOCKS), "gif")[:9], "a damaged GIF"),
    ("x.mp4", saved(Image.fromarray(BLOCKS), "png").replace(b"IHDR", b"IHDx"), "a damaged PNG"),
    ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "no known format")])
def test_an_image_that_pillow_cannot_read_is_no_video(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    for read in (open_media, open_video, read_video, read_image):
        with pytest.raises(DataError, match=f"{name}: needed an image that Pillow can read, got {problem};"):
            read(tmp_path / name)


def heic(path: Path) -> Path:
    pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(BLOCKS)).save(path, quality=-1)
    return path


def test_heic_is_read_with_pillow_heif(tmp_path):
    path = heic(tmp_path / "x.heic")
    assert np.abs(image_frame(path)[0].numpy() - BLOCKS.astype(int)).max() <= 2  # rounding to YCbCr
    pixels, fps = frames_of(path)
    assert fps is None and pixels.equal(read_image(path))
    path.rename(tmp_path / "x.jpg")  # as some phones name it
    assert pixels.equal(read_image(tmp_path / "x.jpg"))


@pytest.mark.parametrize("name", ["x.heic", "x.mp4"])
@pytest.mark.parametrize("read", [open_media, open_video, read_video, read_image])
def test_heic_without_pillow_heif_is_refused_with_advice(tmp_path, monkeypatch, name, read):
    path = heic(tmp_path / "x.heic").rename(tmp_path / name)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=rf"{name}: needed pillow-heif to read HEIC.*pip install pillow-heif"):
        read(path)


def test_of_several_pages_the_first_is_read_with_a_line(tmp_path, caplog):
    first, *others = [Image.fromarray(noise(number)) for number in range(3)]
    first.save(tmp_path / "x.tif", save_all=True, append_images=others)
    pixels, fps = frames_of(tmp_path / "x.tif")
    assert fps is None and np.array_equal(((pixels + 1) * 127.5).round()[:, 0].permute(1, 2, 0), noise(0))
    assert caplog.messages == [f"{tmp_path / 'x.tif'}: only the first of its 3 pages is used."]
    caplog.clear()
    first.save(tmp_path / "x.jpg", "mpo", save_all=True, append_images=others)  # a photo and its previews
    assert frames_of(tmp_path / "x.jpg")[0].shape[1] == 1 and caplog.messages == []


def test_a_still_image_opened_as_a_video_is_one_frame(tmp_path):
    Image.fromarray(BLOCKS).save(tmp_path / "x.png")
    with open_video(tmp_path / "x.png") as video:
        assert isinstance(video, Animation) and video.times.tolist() == [0.0]
        assert [frame.shape for frame in video.rgb_frames()] == [(128, 192, 3)]

import io
import logging
import struct
import zlib
from functools import partial

import icc
import numpy as np
import pytest
import torch
import unusual_files as make
from PIL import Image, ImageCms, features
from tars import noise

from toolkit.contracts import DataError
from toolkit.data import Images, read_image, read_video, sample_clips, write_image
from toolkit.data.reading.images import image_frame, rgb_of
from toolkit.registry import DATASETS

P3 = dict(gamma=2.2, primaries=icc.DISPLAY_P3)
ADOBE = dict(gamma=563 / 256, primaries=icc.ADOBE_RGB)


def test_images_are_clips_of_one_frame(tmp_path):
    for name in ("a.png", "sub/b.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / name)
    images = DATASETS.build({"type": "Images", "path": str(tmp_path), "size": 32})
    assert images.modality == "image" and len(images) == 2
    sample = images[1]
    assert sample["pixels"].shape == (3, 1, 32, 32) and sample["key"].endswith("b.JPG")
    with pytest.raises(IndexError):
        images[2]


@pytest.mark.parametrize(("name", "writer", "tolerance"), [
    ("grey.png", make.grey, 0), ("grey_16_bit.png", make.grey_16_bit, 0), ("grey_16_bit.tif", make.grey_16_bit, 0),
    ("palette.png", partial(make.palette, transparency=None), 0), ("cmyk.tif", make.cmyk, 1),
    ("rgb.png", make.image_33x47, 0), ("rgb_16_bit.png", make.rgb_16_bit, 1), ("rgba.png", make.transparent, 1),
    ("grey_and_alpha.png", partial(make.transparent, channels=1), 1), ("transparent_palette.png", make.palette, 0),
    ("turned.png", partial(make.turned_by_exif, orientation=6), 0)])
def test_every_kind_of_image_is_upright_in_three_channels_on_white(tmp_path, name, writer, tolerance):
    expected = writer(tmp_path / name)
    shown = ((read_image(tmp_path / name) + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    assert shown.shape == expected.shape and np.abs(shown - expected).max() <= tolerance + 0.01


def test_unreadable_files_are_named(tmp_path):
    make.truncated(tmp_path / "torn.png")
    make.text(tmp_path / "text.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    for name in ("torn.png", "text.png", "float.tif", "missing.png"):
        with pytest.raises(DataError, match=r": needed .*, got .*;") as caught:
            read_image(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


def test_written_images_are_read_exactly(tmp_path):
    pixels = torch.randint(0, 256, (3, 1, 5, 7)) / 127.5 - 1
    write_image(tmp_path / "x.png", pixels)
    assert torch.allclose(read_image(tmp_path / "x.png"), pixels, atol=1e-6)
    with pytest.raises(ValueError, match=r"takes pixels \(3, 1, H, W\)"):
        write_image(tmp_path / "x.png", torch.zeros(3, 2, 5, 7))


def test_without_a_path_frames_of_the_sample_clips_are_used():
    images = Images(size=(144, 176), train=False)
    keys = [images[index]["key"].split("#")[1] for index in (0, 7, 15)]
    assert len(images) == 16 and keys == ["0", "55", "119"]  # of carphone's 120 frames
    frames, _ = read_video(sample_clips("eval")[0], start=55, num_frames=1)  # (1, H, W, 3) uint8
    torch.testing.assert_close(images[7]["pixels"], frames.movedim(-1, 0) / 127.5 - 1)


def shown(image: Image.Image, kind: str = "png", **options) -> np.ndarray:
    """The (H, W, 3) pixels of an image that is written and read."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return image_frame(file.getvalue(), name=f"x.{kind}")[0].numpy()


@pytest.mark.parametrize(("profile", "expected"), [(P3, (0, 205, 72)), (ADOBE, (0, 201, 80))], ids=["P3", "Adobe"])
@pytest.mark.parametrize(("kind", "mode"), [("png", "RGB"), ("png", "RGBA"), ("png", "P"), ("tiff", "RGB"),
                                            ("webp", "RGB")])
def test_a_colour_profile_is_converted_to_srgb(profile, expected, kind, mode):
    image = Image.new("RGB", (4, 4), (60, 200, 90)).convert(mode, palette=Image.Palette.ADAPTIVE)
    options = {"lossless": True} if kind == "webp" else {}
    assert shown(image, kind, icc_profile=icc.profile(**profile), **options)[2, 1].tolist() == list(expected)
    assert shown(image, kind, **options)[2, 1].tolist() == [60, 200, 90]


@pytest.mark.parametrize("profile", [P3, ADOBE, dict(gamma=1.8, primaries=icc.SRGB)], ids=["P3", "Adobe", "gamma"])
def test_profiles_agree_with_the_formula(profile):
    colours = noise(1, height=32, width=32)
    seen = shown(Image.fromarray(colours), icc_profile=icc.profile(**profile))
    assert np.abs(seen - icc.to_srgb(colours, **profile)).max() <= 1.5


def test_a_profile_of_grey_is_converted_and_transparency_kept():
    grey, opacity = noise(2)[..., 0], noise(3)[..., 0]
    expected = icc.encoded((grey / 255.0) ** 1.8)
    profile = icc.profile(gamma=1.8)
    assert np.abs(shown(Image.fromarray(grey), icc_profile=profile)[..., 0] - expected).max() <= 1.5
    with_opacity = shown(Image.fromarray(np.stack([grey, opacity], -1)), icc_profile=profile)
    assert np.abs(with_opacity[..., 1] - (255 - (255 - expected) * (opacity / 255))).max() <= 2
    # an RGB profile of a grey image: its curve alone counts
    in_rgb = shown(Image.fromarray(grey), icc_profile=icc.profile(gamma=1.8, primaries=icc.SRGB))
    assert np.abs(in_rgb[..., 2] - expected).max() <= 1.5


def test_a_profile_of_inks_is_converted():
    inks = np.concatenate([noise(8), noise(9)[..., :1]], -1)
    darkness = (20, 10, 5, 60)
    lightness = 100 - inks @ np.array(darkness) / 255  # all above 8, where the curve of L* is a cube
    image = Image.fromarray(inks, mode="CMYK")
    seen = shown(image, "tiff", icc_profile=icc.ink_profile(darkness))
    expected = icc.encoded(((lightness + 16) / 116) ** 3)[..., None]
    assert np.abs(seen - expected).max() <= 10  # the perceptual intent makes dark greys a little darker
    without = shown(image, "tiff")
    assert np.array_equal(without, np.array(image.convert("RGB"))) and np.abs(without - expected).max() > 100


def test_an_srgb_profile_changes_nothing(caplog):
    colours = noise(4, height=64, width=64)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(shown(Image.fromarray(colours), icc_profile=profile), colours)
    assert caplog.messages == []


@pytest.mark.parametrize(("profile", "problem"), [
    (b"no profile", "cannot open profile"), (icc.profile(**P3)[:300], "cannot build transform"),
    (icc.profile(gamma=1.8), "its colour space is GRAY, the image's is RGB")], ids=["text", "torn", "grey"])
def test_a_profile_that_cannot_be_used_is_ignored_with_one_line(caplog, tmp_path, profile, problem):
    Image.fromarray(noise(5)).save(tmp_path / "x.png", icc_profile=profile)
    for _ in range(2):
        assert np.array_equal(image_frame(tmp_path / "x.png")[0].numpy(), noise(5))
    line, = caplog.messages
    assert line.startswith(f"{tmp_path / 'x.png'}: its ICC profile cannot be used ({problem}")


@pytest.mark.parametrize(("kind", "options", "tolerance"), [
    ("webp", {"lossless": True, "exact": True}, 1), ("tiff", {}, 1), ("jpeg2000", {}, 1), ("tga", {}, 1),
    ("ico", {"sizes": [(16, 12)]}, 1), ("dds", {}, 1),
    *([("avif", {"quality": 100, "subsampling": "4:4:4"}, 3)] if features.check("avif") else [])])
def test_transparency_of_other_formats_is_on_white(kind, options, tolerance):
    colour, opacity = noise(5), noise(6)[..., :1]
    image = Image.fromarray(np.concatenate([colour, opacity], -1))
    expected = 255 - (255 - colour.astype(float)) * (opacity / 255)
    assert np.abs(shown(image, kind, **options) - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "LA"])
def test_transparency_of_every_mode_is_on_white(mode):
    colour, opacity = noise(5)[..., :1].repeat(3, -1), noise(6)[..., :1] | 64
    image = Image.fromarray(np.concatenate([colour, opacity], -1))
    if mode == "PA":
        image = Image.fromarray(colour[..., 0]).convert("P").convert("PA")
        image.putalpha(Image.fromarray(opacity[..., 0]))
    else:
        image = image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)
    expected = 255 - (255 - colour.astype(float)) * (opacity / 255)
    assert image.mode == mode and np.abs(rgb_of(image, path="x").numpy() - expected).max() <= 3


def png(rows: list[bytes], *, width: int, bits: int, kind: int, transparent: tuple[int, ...]) -> bytes:
    """A PNG with one transparent colour; ``kind`` is 0 for grey, 2 for RGB."""
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II5B", width, len(rows), bits, kind, 0, 0, 0))
            + chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("bits", "row", "transparent", "expected"), [
    (4, b"\x01\x5f", 5, [0, 17, 255, 255]), (2, b"\x1b", 2, [0, 85, 255, 255]), (1, b"\x50", 0, [255, 255, 255, 255]),
    (8, b"\0\x11\x55\xff", 0x55, [0, 17, 255, 255])])
def test_one_transparent_grey_of_few_bits_is_on_white(bits, row, transparent, expected):
    content = png([row], width=4, bits=bits, kind=0, transparent=(transparent,))
    assert image_frame(content, name="x.png")[0, 0, :, 0].tolist() == expected


def tiff(tags: dict[int, tuple[int, ...]], *strips: bytes) -> bytes:
    """A little-endian TIFF, 2 pixels wide and 1 high; values of tags are 16-bit."""
    tags = {256: (2,), 257: (1,), 259: (1,), 262: (1,), 277: (1,), 278: (1,), 279: tuple(map(len, strips))} | tags
    place = 8 + 2 + 12 * (len(tags) + 1) + 4  # after the header and the list of tags
    tags[273] = tuple(place + sum(map(len, strips[:number])) for number in range(len(strips)))
    entries, long_values = b"", b""
    for tag, values in sorted(tags.items()):
        content = struct.pack(f"<{len(values)}H", *values)
        if len(content) > 4:
            content, long_values = struct.pack("<I", place + sum(map(len, strips)) + len(long_values)), (
                long_values + content)
        entries += struct.pack("<HHI", tag, 3, len(values)) + content.ljust(4, b"\0")
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + b"".join(strips) + long_values


RGB = {258: (16, 16, 16), 262: (2,), 277: (3,)}


@pytest.mark.parametrize(("tags", "strips", "problem"), [
    ({254: (1,), 258: (8,)}, [b"\0\xff"], "a small preview of a raw photo"),
    ({258: (32,)}, [struct.pack("<2I", 0, 2**31)], "32-bit integers"),
    ({258: (16,), 262: (0,)}, [struct.pack("<2H", 0, 20000)], "16-bit values in which 0 is white"),
    (RGB | {284: (2,)}, [struct.pack("<2H", 0, 40000)] * 3, "16-bit colours in separate planes"),
    ({258: (16,), 339: (2,)}, [struct.pack("<2h", -9, 9)], "signed integers")])
def test_a_tiff_that_pillow_reads_wrongly_is_refused(tags, strips, problem):
    with pytest.raises(DataError, match=f"x.tif: needed an image that Pillow can read, got {problem};"):
        image_frame(tiff(tags, *strips), name="x.tif")


@pytest.mark.parametrize(("tags", "channels"), [({258: (16,)}, 1), (RGB, 3)])
def test_a_tiff_of_16_bits_is_read(tags, channels):
    content = tiff(tags, struct.pack(f"<{2 * channels}H", *[0] * channels, *[40000] * channels))
    assert np.abs(image_frame(content, name="x.tif")[0].numpy().astype(int) - [[[0] * 3, [156] * 3]]).max() <= 1


def test_one_transparent_colour_of_16_bits_is_on_white(tmp_path):
    wide = np.random.default_rng(7).integers(0, 2**16, (12, 16, 3), dtype=np.uint16)
    wide[3, 5] = wide[8, 2] = 0x1234, 0x5678, 0x9abc
    wide[4, 4] = 0x3401, 0x7801, 0xbc01  # whose high bytes are the other's low bytes
    rows = [row.astype(">u2").tobytes() for row in wide]
    (tmp_path / "x.png").write_bytes(png(rows, width=16, bits=16, kind=2, transparent=(0x1234, 0x5678, 0x9abc)))
    expected = np.round(wide / 257)
    expected[3, 5] = expected[8, 2] = 255
    assert np.abs(image_frame(tmp_path / "x.png")[0].numpy() - expected).max() <= 1


def test_a_folder_of_images_has_every_ending_that_pillow_reads(tmp_path, caplog):
    for name in ("a.jfif", "a.jp2", "a.tga", "a.jpe", "a.png", "notes.txt", "x.json", "y.json"):
        if name.startswith("a"):
            Image.fromarray(noise(0)).save(tmp_path / name)
        else:
            (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        images = Images(path=tmp_path, size=8)
    assert [file.suffix for file in images.files] == [".jfif", ".jp2", ".jpe", ".png", ".tga"]
    assert all(sample["pixels"].shape == (3, 1, 8, 8) for sample in (images[index] for index in range(5)))
    assert caplog.messages == [f"skipped 3 files with other endings: 2 .json, 1 .txt (in {tmp_path})."]

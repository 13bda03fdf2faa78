import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.contracts import DataError
from toolkit.data import Images, read_image, write_image
from toolkit.registry import DATASETS


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


def test_every_mode_gives_three_channels(tmp_path):
    grey = np.linspace(0, 255, 24).reshape(4, 6).round().astype(np.uint8)
    rgb = Image.fromarray(np.repeat(grey[..., None], 3, 2))
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    pictures = {"grey.png": Image.fromarray(grey), "wide.png": wide, "wide.tif": wide, "palette.png":
                Image.fromarray(grey).convert("P"), "cmyk.tif": rgb.convert("CMYK"), "rgb.png": rgb}
    expected = torch.from_numpy(grey).float() / 127.5 - 1
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        pixels = read_image(tmp_path / name)
        assert pixels.shape == (3, 1, 4, 6), name
        assert torch.allclose(pixels, expected.expand(3, 1, 4, 6), atol=1.01 / 127.5), name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(tmp_path, mode):
    layers = np.zeros((1, 3, 4), np.uint8)
    layers[0, :, 3] = 255, 128, 0  # black: opaque, half, gone
    if mode == "P":
        picture, options = Image.fromarray(np.uint8([[0, 1, 1]]), mode="L").convert("P"), {"transparency": 1}
        expected = [-1.0, 1.0, 1.0]
    else:
        picture, options, expected = Image.fromarray(layers).convert(mode), {}, [-1.0, -0.004, 1.0]
    picture.save(tmp_path / "x.png", **options)
    assert read_image(tmp_path / "x.png")[0, 0, 0].tolist() == pytest.approx(expected, abs=0.01)


def test_the_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (6, 4))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    picture.save(tmp_path / "x.png", exif=exif)
    pixels = read_image(tmp_path / "x.png")
    assert pixels.shape == (3, 1, 6, 4) and pixels[0, 0, 0, 3] == 1.0 and pixels.sum() == 2 * 3 - 3 * 24


def test_unreadable_files_are_named(tmp_path):
    noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no image")
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

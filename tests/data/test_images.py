from functools import partial

import numpy as np
import pytest
import torch
import unusual_files as make
from PIL import Image

from toolkit.contracts import DataError
from toolkit.data import Images, read_image, read_video, sample_clips, write_image
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

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

"""Files to tokenize, and a tokenizer for them."""

import pytest
from training.tiny import stripes, write_clips

from toolkit.data import write_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip, images of several sizes, two of one name, and one further down."""
    folder = write_clips(tmp_path_factory.mktemp("input"), count=1)
    for number, (name, height) in enumerate({"a.png": 20, "a.jpg": 20, "b.v2.png": 20, "c.png": 12}.items()):
        write_image(folder / name, stripes(number, num_frames=1, height=height, width=24))
    (folder / "deep.er").mkdir()
    write_image(folder / "deep.er" / "d.png", stripes(1, num_frames=1, height=7, width=9))
    return folder


@pytest.fixture
def tokenizer(make_tokenizer):
    """Of stride (2, 4, 4)."""
    return make_tokenizer()

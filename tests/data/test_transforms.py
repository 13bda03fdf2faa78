import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from toolkit.contracts import DataError
from toolkit.data.reading.transforms import Framing, resize, to_frames, to_pixels


def test_resizing_is_pillows_bicubic():
    frames = torch.randint(0, 256, (2, 90, 160, 3), dtype=torch.uint8)
    ours = resize(frames, size=(32, 57)).int()
    pillow = np.stack([Image.fromarray(frame).resize((57, 32), Image.Resampling.BICUBIC)
                       for frame in frames.numpy()])
    assert (ours - torch.from_numpy(pillow).int()).abs().max() <= 1


@given(height=st.integers(1, 90), width=st.integers(1, 90), rows=st.integers(1, 40),
       columns=st.integers(1, 40), edge=st.none() | st.integers(40, 60), train=st.booleans())
def test_frames_of_any_size_get_the_size_of_the_setting(height, width, rows, columns, edge, train):
    framing = Framing(size=(rows, columns), short_edge=edge, train=train)
    assert framing(torch.zeros(1, height, width, 3, dtype=torch.uint8)).shape == (3, 1, rows, columns)


def test_the_smallest_covering_resize_keeps_the_short_side():
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 64, 1, 1).expand(1, 64, 200, 3)
    pixels = Framing(size=32, train=False)(ramp)
    half = ramp[0, :, 0, 0].float().view(32, 2).mean(1)  # halved: averages of two rows
    assert ((pixels[0, 0, :, 16] + 1) * 127.5 - half).abs().max() <= 1


def test_evaluation_crops_the_centre_and_training_everywhere():
    columns = torch.arange(40, dtype=torch.uint8).view(1, 1, 40, 1).expand(1, 32, 40, 3)
    assert torch.equal(Framing(size=32, train=False)(columns), to_pixels(columns[:, :, 4:36]))
    lefts = {int(to_frames(Framing(size=32, flip=0.0)(columns))[0, 0, 0, 0]) for _ in range(200)}
    assert lefts == set(range(9))


def test_flips_have_the_stated_probability_and_turn_all_frames():
    columns = torch.arange(32, dtype=torch.uint8).view(1, 1, 32, 1).expand(4, 32, 32, 3)
    flipped = [bool((Framing(size=32, flip=0.25)(columns)[:, :, 0, 0] > -0.9).all()) for _ in range(400)]
    assert 0.19 < sum(flipped) / 400 < 0.31  # 0.25 and three standard errors
    still = Framing(size=32, flip=1.0, train=False)(columns)
    assert torch.equal(still, to_pixels(columns))


def test_a_range_of_short_edges_is_drawn_in_training_only():
    framing = Framing(size=32, short_edge=(32, 36))
    assert {framing._edge() for _ in range(100)} == set(range(32, 37))
    assert Framing(size=32, short_edge=(40, 50), train=False)._edge() == 40
    assert framing._resized(100, 200, 36) == (36, 72)
    assert framing.largest(100, 200) == (36, 72)


@pytest.mark.parametrize("short_edge", [31, (31, 64), (50, 40), (40, 50, 60)])
def test_a_short_edge_that_cannot_cover_the_size_is_refused(short_edge):
    with pytest.raises(ValueError, match="short_edge"):
        Framing(size=(64, 32), short_edge=short_edge)


def test_pixels_and_frames_are_inverse():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    assert torch.equal(to_frames(to_pixels(frames)), frames)


def test_shuffled_channels_have_one_order_in_all_frames():
    frames = torch.arange(3, dtype=torch.uint8).mul(100).expand(4, 32, 32, 3)
    orders = set()
    for _ in range(200):
        shuffled = to_frames(Framing(size=32, channel_shuffle=1.0)(frames))
        assert (shuffled == shuffled[0, 0, 0]).all()
        orders.add(tuple(shuffled[0, 0, 0].tolist()))
    assert len(orders) == 6 and all(sorted(order) == [0, 100, 200] for order in orders)
    assert torch.equal(to_frames(Framing(size=32, channel_shuffle=1.0, train=False)(frames)), frames)


@pytest.mark.parametrize("turn", [lambda height, width: (height, width), lambda height, width: (width, height)])
def test_frames_that_would_be_enlarged_to_a_strip_are_refused(turn):
    framing = Framing(size=8, short_edge=(8, 16))
    assert framing(torch.zeros(2, *turn(1, 100), 3, dtype=torch.uint8)).shape == (3, 2, 8, 8)
    assert Framing(size=8)(torch.zeros(2, *turn(8, 1000), 3, dtype=torch.uint8)).shape == (3, 2, 8, 8)  # no larger
    for refuse in (framing, lambda frames: framing.largest(*frames.shape[1:3])):
        with pytest.raises(DataError, match=r"at most 100 times as long as wide, got \d+ x \d+, which would be"):
            refuse(torch.zeros(2, *turn(1, 102), 3, dtype=torch.uint8))

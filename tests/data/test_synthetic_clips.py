"""Clips of dead leaves: the drawing against areas, the size law, motion, statistics, and independence of everything."""

import dataclasses
import subprocess
import sys
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from toolkit.build import build_component
from toolkit.data import Source, SyntheticClips, TrainLoader
from toolkit.data.datasets import synthetic
from toolkit.data.datasets.camera import CameraPath, smooth_paths
from toolkit.data.datasets.leaf_tables import LEVELS, NUM_TEXTURES, RECTANGLE, gauges, texels, texture_places
from toolkit.data.datasets.leaves import Appearance, Leaves, draw
from toolkit.registry import DATASETS

ELLIPSE = 6  # row of gauges()


def test_a_clip_follows_from_the_seed_and_its_number_only():
    clips = SyntheticClips(num_clips=9, num_frames=3, size=16, seed=5)
    first = [clips[index]["pixels"] for index in range(9)]
    torch.rand(7)
    again = {index: SyntheticClips(num_clips=20, num_frames=3, size=16, seed=5)[index]["pixels"]
             for index in reversed(range(9))}
    assert all(torch.equal(first[index], again[index]) for index in range(9))
    assert all(torch.equal(clips[index]["pixels"], first[3]) for index in (np.int64(3), torch.tensor(3)))
    assert not any(torch.equal(first[0], other) for other in first[1:])
    assert not torch.equal(first[0], SyntheticClips(num_frames=3, size=16, seed=6)[0]["pixels"])
    assert [clips[2]["key"], clips.modality, clips.sample_size] == ["synthetic/5/2", "video", (3, 16, 16)]


def test_another_process_draws_the_same_bits():
    program = ("from toolkit.data import SyntheticClips; from hashlib import sha256; "
               "print(sha256(SyntheticClips(num_frames=4, size=24)[11]['pixels'].numpy().tobytes()).hexdigest())")
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    here = sha256(SyntheticClips(num_frames=4, size=24)[11]["pixels"].numpy().tobytes()).hexdigest()
    assert printed.strip() == here


def mixture(num_workers):
    return TrainLoader([Source(SyntheticClips(num_clips=12, num_frames=3, size=16), batch_size=2, weight=3.0,
                               num_workers=num_workers),
                        Source(SyntheticClips(num_clips=5, num_frames=1, size=16, seed=1), batch_size=3,
                               num_workers=num_workers)], seed=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_mixed_batches_do_not_depend_on_workers_and_resume_in_the_middle(num_workers):
    whole, loader, resumed = mixture(0), mixture(num_workers), mixture(num_workers)
    expected = [next(whole) for _ in range(12)]
    assert {batch.modality for batch in expected} == {"image", "video"}
    batches = [next(loader) for _ in range(5)]
    resumed.load_state_dict(loader.state_dict())
    batches += [next(resumed) for _ in range(7)]
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys == other.keys and torch.equal(batch.pixels, other.pixels)


def test_radii_have_the_density_of_the_inverse_cube():
    smallest, largest = synthetic.RADII
    radii = synthetic.draw_radii(np.random.default_rng(0), 20_000)
    assert radii.min() >= smallest and radii.max() <= largest

    def distribution(radius):  # the integral of r^-3
        return (smallest**-2 - radius**-2) / (smallest**-2 - largest**-2)

    assert kstest(radii, distribution).pvalue > 0.01
    assert synthetic.mean_square_radius() == pytest.approx((radii**2).mean(), rel=0.05)


def leaves_of(shapes, centres, half_axes, colours):
    """Still upright leaves without texture in one frame; the last covers everything."""
    count = len(shapes)
    axes = np.array(half_axes, np.float32).T
    to_leaf = np.zeros((2, 2, count, 1), np.float32)
    to_leaf[0, 0, :, 0], to_leaf[1, 1, :, 0] = 1 / axes
    none = np.zeros((2, count), np.float32)
    looks = Appearance(np.broadcast_to(np.float32(colours), (3, count)), *np.zeros((2, 3, count), np.float32), none,
                       texture_places(np.zeros(count, int), np.zeros(count, int)).astype(np.float32), none, none)
    return Leaves(np.array(shapes), np.array(centres, np.float32).T[:, :, None], to_leaf, axes[:, :, None] + 1,
                  axes.min(0)[:, None], looks)


@pytest.mark.parametrize(("shape", "area"), [(RECTANGLE, 4.0), (ELLIPSE, np.pi)])
@pytest.mark.parametrize("axes", [(6.0, 6.0), (9.3, 7.1)])
def test_an_antialiased_leaf_covers_its_area(shape, area, axes):
    leaves = leaves_of([shape, RECTANGLE], [(15.2, 16.9), (16, 16)], [axes, (99, 99)], [1, 0])
    frame = draw(leaves, size=(32, 32))[0, 0]
    assert frame.sum() == pytest.approx(area * axes[0] * axes[1], rel=0.02)
    assert frame[15, 17] == pytest.approx(1) and frame[0, 0] == 0 and ((frame > 0.01) & (frame < 0.99)).any()


def test_front_leaves_hide_those_behind():
    centres, axes = [(16, 10), (16, 20), (16, 16)], [(8.5, 8.5), (8.5, 8.5), (99, 99)]
    frame = draw(leaves_of([RECTANGLE] * 3, centres, axes, [0.5, -0.5, 0.0]), size=(33, 33))[0, 0]
    expected = np.zeros((33, 33))
    expected[8:25, 12:29] = -0.5
    expected[8:25, 2:19] = 0.5
    np.testing.assert_allclose(frame[:, 3:28], expected[:, 3:28], atol=0.01)


def test_shapes_have_gauges_of_one_at_their_edges():
    place = np.searchsorted(np.linspace(0, 4, gauges().shape[1]), 0.5)  # the direction (1, 1) / 2
    assert gauges()[RECTANGLE, place] == pytest.approx(0.5, abs=0.01)
    assert gauges()[ELLIPSE, place] == pytest.approx(np.sqrt(0.5), abs=0.01)
    assert (gauges() > 0).all() and (gauges()[:, :-1] >= gauges()[RECTANGLE, :-1] - 1e-5).all()  # within [-1, 1]^2


def test_textures_are_normalized_and_repeat():
    first, side, pitch = texture_places(np.arange(NUM_TEXTURES), np.zeros(NUM_TEXTURES, int))
    assert (side == LEVELS[0]).all() and (pitch == LEVELS[0] + 1).all()
    for start in first:
        tile = texels()[start:start + (LEVELS[0] + 1) ** 2].reshape(LEVELS[0] + 1, -1)
        assert np.array_equal(tile[0], tile[-1]) and np.array_equal(tile[:, 0], tile[:, -1])
        assert tile[:-1, :-1].std() == pytest.approx(1, abs=1e-3) and abs(tile[:-1, :-1].mean()) < 1e-3


def test_a_pure_pan_shifts_the_picture(monkeypatch):
    pan = np.arange(4) * 2  # pixels
    path = CameraPath(np.stack([pan / 48, -pan / 48]).astype(np.float32), *np.zeros((2, 4), np.float32))
    monkeypatch.setattr(synthetic, "camera_path", lambda rng, num_frames: path)
    for name, value in dict(PARALLAX=(1.0, 1.0), LEAF_SPEED=0.0, LEAF_TURN_SPEED=0.0, NOISY_SHARE=0.0).items():
        monkeypatch.setattr(synthetic, name, value)
    for index in range(3):
        pixels = SyntheticClips(num_frames=4, size=48)[index]["pixels"]
        for frame, shift in enumerate(pan):
            before, after = pixels[:, 0, shift:, :48 - shift], pixels[:, frame, :48 - shift, shift:]
            torch.testing.assert_close(after, before, atol=0.02, rtol=0)


def test_near_leaves_move_more_and_paths_are_smooth():
    rng = np.random.default_rng(0)
    speeds = rng.random(50)
    paths = smooth_paths(rng, speeds, num_frames=17)
    assert paths.shape == (50, 17) and (paths[:, 8] == 0).all()
    steps = np.diff(paths, axis=1)
    assert (np.abs(steps) <= speeds[:, None] * 1.0001).all()
    assert (np.abs(np.diff(steps, axis=1)) <= 2 * np.pi / 24 * speeds[:, None] * 1.001).all()  # period of 24 and more
    shift = np.stack([np.zeros(5), np.arange(5) - 2]).astype(np.float32)
    camera = CameraPath(shift, *np.zeros((2, 5), np.float32))
    parallax = np.array([1.6, 1.0, 0.4], np.float32)
    centre = synthetic._centres(_Still(), np.zeros((2, 3), np.float32), parallax, camera, frame=np.ones(2, np.float32),
                                moving=0.5)
    np.testing.assert_allclose(centre[1], -parallax[:, None] * shift[1], atol=1e-6)


class _Still:
    """Random numbers of leaves that do not move by themselves."""

    def random(self, shape):
        return np.ones(shape)

    def uniform(self, low, high, shape):
        return np.full(shape, high)


def test_clips_of_two_sizes_look_alike(monkeypatch):
    monkeypatch.setattr(synthetic, "NOISY_SHARE", 0.0)
    correlations = []
    for index in range(12):
        large, small = (SyntheticClips(num_frames=2, size=size)[index]["pixels"] for size in (128, 32))
        reduced = torch.nn.functional.avg_pool2d(large, 4)
        correlations.append(torch.corrcoef(torch.stack([reduced.flatten(), small.flatten()]))[0, 1])
    assert min(correlations) > 0.75 and np.mean(correlations) > 0.9


def test_some_clips_are_still_and_others_move(monkeypatch):
    monkeypatch.setattr(synthetic, "NOISY_SHARE", 0.0)
    clips = SyntheticClips(num_frames=5, size=16)
    motion = np.array([clips[index]["pixels"].diff(dim=1).abs().mean() for index in range(150)])
    still = 0.2 * (0.2 + 0.8 * 0.4**3)  # no leaf moves, and no camera
    assert 1 <= (motion < 1e-3).sum() < 150 * still + 3 * np.sqrt(150 * still)
    assert 0.03 < np.median(motion) < 0.3


def test_values_are_distributed_as_those_of_photos():
    clips = SyntheticClips(num_frames=1, size=128)
    images = torch.stack([clips[index]["pixels"][:, 0] for index in range(100)])
    assert abs(images.mean()) < 0.08 and 0.4 < images.std() < 0.55
    assert images.amin((0, 2, 3)).max() == -1 and images.amax((0, 2, 3)).min() == 1
    neighbours = torch.stack([images[..., 1:].flatten(), images[..., :-1].flatten()])
    assert torch.corrcoef(neighbours)[0, 1] > 0.88


def test_the_spectrum_falls_as_that_of_photos():
    clips = SyntheticClips(num_frames=1, size=128)
    images = np.stack([clips[index]["pixels"].mean((0, 1)).numpy() for index in range(100)])
    window = np.hanning(128)
    spectrum = (np.abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * window * window[:, None])) ** 2)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128, 1 / 128)] * 2))
    edges = 2 ** np.arange(1, 6.1, 0.5)  # half octaves
    power = [spectrum.mean(0)[(frequency >= low) & (frequency < high)].mean()
             for low, high in pairwise(edges)]
    slope = np.polyfit(np.log(edges[:-1]), np.log(power), 1)[0]
    assert -2.7 < slope < -1.6


@pytest.mark.parametrize(("frames", "size"), [(1, 1), (1, (7, 50)), (40, (5, 3)), (2, (300, 200)), (3, (8, 512))])
def test_any_size_gives_finite_values_in_range(frames, size):
    clips = build_component(DATASETS, dict(type="SyntheticClips", num_frames=frames, size=size))
    pixels = clips[3]["pixels"]
    assert pixels.shape == (3, *clips.sample_size) and pixels.dtype == torch.float32
    assert pixels.isfinite().all() and pixels.abs().max() <= 1
    assert clips.modality == ("image" if frames == 1 else "video")


@pytest.mark.parametrize(("num_frames", "size"), [(9, (16, 64)), (33, (4, 256))])
def test_nothing_is_left_uncovered(num_frames, size):
    for index in range(5):
        rng = np.random.default_rng(index)
        leaves = synthetic.random_leaves(rng, num_frames=num_frames, size=size)
        ones = np.ones_like(leaves.appearance.colour)
        looks = leaves.appearance._replace(colour=ones, shade=0 * ones, contrast=0 * ones)
        clip = draw(dataclasses.replace(leaves, appearance=looks), size=size)
        np.testing.assert_allclose(clip, 1, atol=0.01)  # shares sum to 1


@pytest.mark.parametrize(("options", "message"), [
    (dict(num_clips=0), "whole num_clips and num_frames of at least 1, got 0 and 17"),
    (dict(num_frames=0), "got 100000 and 0"), (dict(size=0), "size takes one positive number"),
    (dict(size=(4, 4, 4)), "size takes one"), (dict(size=32.5), "whole numbers of pixels, got 32.5"),
    (dict(num_frames=2.5), "takes whole num_clips and num_frames .* got 100000 and 2.5"),
    (dict(seed=1.0), "takes a whole number as seed, got 1.0"),
    (dict(size=(1, 65)), "at most 64 times as long as wide, got 1 x 65"), (dict(size=8192), "at most 16777216 pixels")])
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticClips(**options)


def test_a_number_out_of_range_is_an_index_error():
    with pytest.raises(IndexError, match="has 5 clips, got index 5"):
        SyntheticClips(num_clips=5)[5]

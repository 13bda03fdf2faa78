"""Clips from photos: the camera against slices and formulas, the frame inside the photo, memory, and mixtures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tars import noise

from toolkit.build import build_component
from toolkit.contracts import DataError
from toolkit.data import Images, PhotoClips, Source, SyntheticClips, TrainLoader
from toolkit.data.datasets import photos
from toolkit.data.datasets.camera import CameraPath
from toolkit.data.datasets.photos import Windows, random_windows, sample
from toolkit.data.reading.transforms import to_frames, to_pixels
from toolkit.registry import DATASETS


def folder_of(folder, *, count=3, height=60, width=80):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(noise(number, height=height, width=width)).save(folder / f"{number}.png")
    return str(folder)


def fix_camera(monkeypatch, *, rows=0.0, columns=0.0, zoom=0.0, angle=0.0):
    def path(rng, num_frames):
        return CameraPath(*(np.broadcast_to(np.float32(value), shape) for value, shape in [
            (np.stack(np.broadcast_arrays(rows, columns, np.zeros(num_frames))[:2]), (2, num_frames)),
            (zoom, (num_frames,)), (angle, (num_frames,))]))
    monkeypatch.setattr(photos, "camera_path", path)


def test_a_pan_by_whole_pixels_gives_slices_of_the_photo(tmp_path, monkeypatch):
    fix_camera(monkeypatch, rows=np.arange(5) * 2 / 32, columns=-np.arange(5) * 3 / 32)
    pixels = PhotoClips(path=folder_of(tmp_path / "i"), num_frames=5, size=32, short_edge=60, train=False)[1]["pixels"]
    photo = torch.from_numpy(noise(1, height=60, width=80))
    for frame in range(5):  # the path in the middle of its room: rows 10 to 18 of 0 to 28, columns 30 to 18 of 0 to 48
        top, left = 10 + 2 * frame, 30 - 3 * frame
        assert torch.equal(pixels[:, frame:frame + 1], to_pixels(photo[None, top:top + 32, left:left + 32]))


def test_a_single_frame_in_evaluation_is_that_of_images(tmp_path):
    options = dict(path=folder_of(tmp_path / "i", height=90, width=120), size=32, short_edge=48, train=False)
    clips = PhotoClips(num_frames=1, **options)
    assert torch.equal(clips[2]["pixels"], Images(**options)[2]["pixels"])
    assert (clips.modality, clips.sample_size, clips[2]["key"]) == ("image", (1, 32, 32), str(tmp_path / "i" / "2.png"))


@pytest.mark.parametrize("scale", [1, 0.5])
def test_turned_and_enlarged_frames_follow_the_formula(scale):
    rows = torch.arange(100, dtype=torch.uint8).view(100, 1, 1).expand(100, 90, 3)  # bilinear is exact on a ramp
    angle = np.array([0.0, 0.3, -1.2])
    sine, cosine = np.sin(angle), np.cos(angle)
    windows = Windows((100, 90), np.array([[50.0, 48, 52], [40, 45, 44]]),
                      scale * np.array([[cosine, -sine], [sine, cosine]]))
    frames = sample(rows, windows, size=(20, 30))
    i, j = np.arange(20)[:, None] - 9.5, np.arange(30) - 14.5
    for frame, centre in enumerate([50, 48, 52]):
        expected = centre + scale * (cosine[frame] * i - sine[frame] * j)
        assert np.abs(frames[frame, ..., 1].numpy() - expected).max() <= 0.501  # rounding


def test_a_distant_frame_does_not_alias():
    checks = ((np.arange(64)[:, None] + np.arange(64)) % 2 * 255).astype(np.uint8)
    photo = torch.from_numpy(checks)[..., None].expand(-1, -1, 3)
    windows = Windows((32, 32), np.full((2, 1), 15.5), np.eye(2)[:, :, None])
    frame = sample(photo, windows, size=(20, 20))
    assert (frame - 127.5).abs().max() < 10
    assert sample(photo, windows._replace(photo_size=(64, 64)), size=(20, 20)).std() > 100


@given(height=st.integers(1, 80), width=st.integers(1, 80), rows=st.integers(1, 80), columns=st.integers(1, 80),
       frames=st.integers(1, 40), seed=st.integers(0, 10**6), centred=st.booleans())
def test_the_frame_never_leaves_the_photo(height, width, rows, columns, frames, seed, centred):
    photo_size, size = (max(height, rows), max(width, columns)), (rows, columns)
    windows = random_windows(np.random.default_rng(seed), photo_size, num_frames=frames, size=size, centred=centred)
    corners = np.array([[a * (rows - 1) / 2, b * (columns - 1) / 2] for a in (-1, 1) for b in (-1, 1)])
    points = windows.centre[None] + np.einsum("xyt,ky->kxt", windows.to_photo, corners)
    assert points.min() >= -1e-6
    assert (points.max((0, 2)) <= np.array(photo_size) - 1 + 1e-6).all()


def test_a_motion_is_as_large_as_the_room_allows(monkeypatch):
    fix_camera(monkeypatch, rows=np.linspace(-1, 1, 5), columns=np.linspace(0, 0.5, 5))
    windows = random_windows(np.random.default_rng(0), (42, 100), num_frames=5, size=(32, 32), centred=False)
    np.testing.assert_allclose(windows.centre[0], np.linspace(15.5, 25.5, 5))  # 10 rows of the 64
    assert windows.centre[1][-1] - windows.centre[1][0] == pytest.approx(16)
    still = random_windows(np.random.default_rng(0), (32, 32), num_frames=5, size=(32, 32), centred=False)
    np.testing.assert_allclose(still.centre, 15.5)
    fix_camera(monkeypatch, zoom=np.linspace(-1, 0, 5))
    nearer = random_windows(np.random.default_rng(0), (32, 63), num_frames=5, size=(32, 32), centred=False)
    assert nearer.to_photo[0, 0].max() == pytest.approx(1)  # the farthest frame fills the photo


def test_training_draws_from_the_global_generator_and_evaluation_does_not(tmp_path):
    path = folder_of(tmp_path / "i")
    options = dict(path=path, num_frames=3, size=16, short_edge=(20, 40), channel_shuffle=0.5)
    clips = PhotoClips(**options)
    torch.manual_seed(0)
    first, second = clips[0]["pixels"], clips[0]["pixels"]
    torch.manual_seed(0)
    assert torch.equal(clips[0]["pixels"], first) and not torch.equal(first, second)
    fixed = PhotoClips(**options, train=False)
    state = torch.get_rng_state()
    again = {index: fixed[index]["pixels"] for index in (2, 0, 1, 0)}
    assert torch.equal(torch.get_rng_state(), state)
    other = PhotoClips(**options, train=False)
    assert all(torch.equal(other[index]["pixels"], again[index]) for index in range(3))
    assert torch.equal(other[np.int64(2)]["pixels"], again[2])


def test_flips_mirror_all_frames(tmp_path, monkeypatch):
    fix_camera(monkeypatch)
    options = dict(path=folder_of(tmp_path / "i", height=32, width=32), num_frames=3, size=32)
    straight, mirrored = (PhotoClips(**options, flip=flip)[0]["pixels"] for flip in (0.0, 1.0))
    assert torch.equal(straight.flip(3), mirrored)
    assert torch.equal(to_frames(straight)[1], torch.from_numpy(noise(0, height=32, width=32)))


def test_the_least_recently_used_photos_leave_memory(tmp_path):
    clips = PhotoClips(path=folder_of(tmp_path / "i"), num_frames=2, size=16, photos_in_memory=2)
    decoded, decode = [], clips._first_frame
    clips._first_frame = lambda file: decoded.append(file.stem) or decode(file)
    for index in (0, 1, 0, 2, 0, 1):
        clips[index]
    assert decoded == ["0", "1", "2", "1"]
    assert all(photo.dtype == torch.uint8 and photo.shape == (16, 21, 3) for photo in clips._photos.values())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_mixed_with_synthetic_clips_batches_do_not_depend_on_workers_and_resume(tmp_path, num_workers):
    def loader(workers):
        clips = PhotoClips(path=folder_of(tmp_path / "i", count=7), num_frames=3, size=16, short_edge=(20, 32))
        return TrainLoader([Source(clips, batch_size=2, weight=2.0, num_workers=workers),
                            Source(SyntheticClips(num_frames=3, size=16), batch_size=3, num_workers=workers)], seed=3)
    whole, first, resumed = loader(0), loader(num_workers), loader(num_workers)
    expected = [next(whole) for _ in range(12)]
    assert {len(batch.keys) for batch in expected} == {2, 3}
    batches = [next(first) for _ in range(5)]
    resumed.load_state_dict(first.state_dict())
    batches += [next(resumed) for _ in range(7)]
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys == other.keys and torch.equal(batch.pixels, other.pixels)


def test_small_photos_are_enlarged_and_strips_refused(tmp_path):
    folder_of(tmp_path / "small", count=1, height=9, width=12)
    clips = build_component(DATASETS, dict(type="PhotoClips", path=str(tmp_path / "small"), num_frames=3, size=16))
    pixels = clips[0]["pixels"]
    assert pixels.shape == (3, 3, 16, 16) and pixels.isfinite().all() and pixels.abs().max() <= 1
    folder_of(tmp_path / "strip", count=1, height=1, width=500)
    with pytest.raises(DataError, match=r"0\.png: needed frames at most 100 times as long as wide"):
        PhotoClips(path=str(tmp_path / "strip"), num_frames=3, size=16)[0]
    (tmp_path / "small" / "0.png").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"0\.png: needed an image"):
        PhotoClips(path=str(tmp_path / "small"), num_frames=3, size=16)[0]


def test_values_out_of_range_are_refused(tmp_path):
    path = folder_of(tmp_path / "i")
    for options, message in [(dict(num_frames=0), "num_frames and photos_in_memory of at least 1, got 0 and 1000"),
                             (dict(photos_in_memory=0), "got 17 and 0"), (dict(size=0), "size takes"),
                             (dict(num_frames=2.5), "got 2.5 and 1000"), (dict(size=(32.0, 32)), "whole numbers"),
                             (dict(short_edge=16), "cannot cover"), (dict(flip=2.0), "probability")]:
        with pytest.raises(ValueError, match=message):
            PhotoClips(path=path, **options)
    with pytest.raises(ValueError, match="takes the path of photos, got None; name a folder"):
        PhotoClips(path=None)
    with pytest.raises(DataError, match="does not exist"):
        PhotoClips(path=str(tmp_path / "nowhere"))
    with pytest.raises(IndexError, match="has 3 photos, got index 3"):
        PhotoClips(path=path)[3]


def test_the_pictures_of_the_guide_are_those_of_its_script(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    script = (root / "toolkit/data/README.md").read_text().split("```python\n")[-1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    for name in ("synthetic_clips.png", "photo_clips.png"):
        file = root / ".github" / name
        ours, kept = (np.array(Image.open(picture).convert("RGB"), int) for picture in (tmp_path / name, file))
        assert ours.shape == kept.shape and np.abs(ours - kept).mean() < 8 and file.stat().st_size < 60_000

import pytest
import torch
from unusual_files import strip_of_video

from toolkit.contracts import DataError
from toolkit.data import InMemoryClips, VideoClips, write_video


@pytest.fixture
def folder(tmp_path):
    ramp = torch.linspace(-1, 1, 20).view(1, 20, 1, 1)
    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", (ramp * (1 - number) + torch.zeros(3, 20, 48, 64)), fps=10)
    return tmp_path


@pytest.mark.parametrize("options", [dict(), dict(frame_stride=2), dict(short_edge=40), dict(size=(24, 40))])
def test_fixed_clips_equal_those_read_by_seeking(folder, options):
    options = dict(path=str(folder), num_frames=5, size=32, train=False, clips_per_video=3) | options
    kept, sought = InMemoryClips(**options), VideoClips(**options)
    assert len(kept) == len(sought) == 6
    for number in range(6):
        assert kept[number]["key"] == sought[number]["key"]
        assert torch.equal(kept[number]["pixels"], sought[number]["pixels"])


def test_training_draws_the_same_clips_as_reading_by_seeking(folder):
    options = dict(path=str(folder), num_frames=5, size=32, short_edge=36)
    kept, sought = InMemoryClips(**options), VideoClips(**options)
    for seed in range(5):
        torch.manual_seed(seed)
        first = kept[seed % 2]["pixels"]
        torch.manual_seed(seed)
        assert torch.equal(first, sought[seed % 2]["pixels"])


def test_training_draws_short_edges_from_the_whole_range(folder):
    clips = InMemoryClips(path=str(folder), num_frames=1, size=32, short_edge=(32, 48))
    edges = {clips.framing._edge() for _ in range(300)}
    assert edges == set(range(32, 49))
    assert clips[0]["pixels"].shape == (3, 1, 32, 32)


def test_file_is_decoded_once(folder):
    clips = InMemoryClips(path=str(folder / "0.mp4"), num_frames=2, size=32)
    first = clips[0]["key"]
    (folder / "0.mp4").unlink()
    assert clips[0]["key"] == first


def test_too_short_a_file_is_named(folder):
    with pytest.raises(DataError, match=r"0\.mp4: needed 41 frames \(21 with stride 2\), got 20"):
        InMemoryClips(path=str(folder / "0.mp4"), num_frames=21, frame_stride=2, size=32)[0]


def test_a_strip_of_video_is_refused(tmp_path):
    strip_of_video(tmp_path / "strip.mkv")
    with pytest.raises(DataError, match=r"strip\.mkv: needed frames at most 100 times as long as wide, got 4000 x 2"):
        InMemoryClips(path=str(tmp_path / "strip.mkv"), num_frames=1, size=16)[0]

import logging

import pytest
import torch
from numbered import encode, numbers_of

from toolkit.contracts import DataError
from toolkit.data import VideoClips, read_video, sample_clips
from toolkit.data.reading.transforms import to_pixels
from toolkit.registry import DATASETS


def clips_of(path, **options):
    return VideoClips(path=str(path), **{"size": 64, "num_frames": 5} | options)


def test_it_is_built_by_name_and_has_its_config(short_video):
    clips = DATASETS.build({"type": "VideoClips", "path": str(short_video), "size": [32, 48]})
    assert clips.modality == "video" and len(clips) == 1
    assert clips.config["num_frames"] == 17 and clips.config["size"] == [32, 48]
    sample = clips[0]
    assert sample["pixels"].shape == (3, 17, 32, 48) and sample["pixels"].dtype == torch.float32
    assert sample["key"] == str(short_video) and sample["pixels"].abs().max() <= 1


def test_training_clips_are_consecutive_and_start_anywhere(short_video):
    clips = clips_of(short_video, flip=0.0)
    torch.manual_seed(0)
    runs = [numbers_of(clips[0]["pixels"]) for _ in range(400)]
    assert all(run == list(range(run[0], run[0] + 5)) for run in runs)
    assert {run[0] for run in runs} == set(range(36))  # every start that leaves five frames


def test_random_draws_use_only_torchs_global_generator(short_video):
    clips = clips_of(short_video, size=32, short_edge=(40, 64))
    torch.manual_seed(3)
    first = clips[0]["pixels"]
    again = clips[0]["pixels"]
    torch.manual_seed(3)
    assert torch.equal(first, clips[0]["pixels"]) and not torch.equal(first, again)


def test_evaluation_clips_span_the_file_and_never_change(short_video):
    clips = clips_of(short_video, train=False, clips_per_video=3)
    assert len(clips) == 3
    assert [numbers_of(clips[i]["pixels"])[0] for i in range(3)] == [0, 18, 35]
    assert [clips[i]["key"] for i in range(3)] == [f"{short_video}#{i}" for i in range(3)]
    torch.manual_seed(1)
    assert torch.equal(clips[1]["pixels"], clips[1]["pixels"])
    assert numbers_of(clips_of(short_video, train=False)[0]["pixels"])[0] == 18  # one clip: the middle
    with pytest.raises(IndexError):
        clips[3]


def test_frame_stride_counts_frames_of_the_stream(short_video):
    clips = clips_of(short_video, train=False, frame_stride=4, clips_per_video=2)
    assert [numbers_of(clips[i]["pixels"]) for i in range(2)] == [[0, 4, 8, 12, 16], [23, 27, 31, 35, 39]]


@pytest.mark.parametrize(("fps", "expected"), [(12.5, [0, 2, 4, 6, 8]), (10, [0, 2, 5, 7, 10]),
                                               (50, [0, 0, 1, 1, 2]), (25, [0, 1, 2, 3, 4])])
def test_a_target_rate_takes_the_nearest_frames(short_video, fps, expected):
    clips = clips_of(short_video, train=False, clips_per_video=2, fps=fps)
    # where two frames are equally near, either will do
    off = [abs(a - b) for a, b in zip(numbers_of(clips[0]["pixels"]), expected, strict=True)]
    assert max(off) <= (1 if fps in (10, 50) else 0)
    assert numbers_of(clips[1]["pixels"])[-1] == 39


def test_a_target_rate_follows_timestamps_where_the_rate_varies(tmp_path):
    ticks = [100 * k for k in range(20)] + [2000 + 20 * k for k in range(60)]  # 10, then 50 per second
    path = encode(tmp_path / "uneven.mkv", num_frames=80, ticks=ticks, b_frames=2)
    torch.manual_seed(0)
    clips = clips_of(path, num_frames=4, fps=10, flip=0.0)
    nearest = [min(range(80), key=lambda number: abs(ticks[number] - at)) for at in range(ticks[-1])]
    possible = {tuple(nearest[start::100][:4]) for start in range(ticks[-1] - 300)}
    seen = {tuple(numbers_of(clips[0]["pixels"])) for _ in range(40)}
    assert seen <= possible and len(seen) > 10


@pytest.mark.parametrize("options", [{}, {"frame_stride": 3}, {"fps": 12.5}])
def test_a_clip_as_long_as_the_file_is_read_and_a_longer_one_is_refused(tmp_path, options):
    path = encode(tmp_path / "short.mp4", num_frames=13, b_frames=2)
    longest = {0: 13, 3: 5, 12.5: 7}[next(iter(options.values()), 0)]
    assert clips_of(path, num_frames=longest, **options)[0]["pixels"].shape[1] == longest
    with pytest.raises(DataError, match=r"needed .* got .* ask for shorter clips") as caught:
        clips_of(path, num_frames=longest + 1, **options)[0]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("options", "message"), [
    ({"fps": 8, "frame_stride": 2}, "either frame_stride or a positive fps"),
    ({"fps": -1}, "either frame_stride or a positive fps"),
    ({"num_frames": 0}, "at least 1"),
    ({"short_edge": 32, "size": 64}, "short_edge 32 cannot cover size"),
    ({"samples": "all", "path": None}, "samples takes one of"),
])
def test_numbers_that_do_not_fit_are_refused_at_construction(short_video, options, message):
    with pytest.raises(ValueError, match=message):
        VideoClips(**{"path": str(short_video)} | options)


def test_without_a_path_the_sample_clips_are_used_and_logged(caplog):
    with caplog.at_level(logging.INFO):
        clips = VideoClips(num_frames=3, size=(72, 88), train=False)
    assert clips.files == sample_clips("eval") and "carphone" in caplog.text
    frames, _ = read_video(clips.files[0], start=58, num_frames=5)
    assert clips[0]["pixels"].shape == (3, 3, 72, 88)
    assert {clip.name for clip in sample_clips("train")}.isdisjoint(clip.name for clip in clips.files)
    full = VideoClips(num_frames=3, size=(144, 176), train=False)[0]["pixels"]
    assert any(torch.equal(full[:, :1], to_pixels(frame[None])) for frame in frames)

import logging
import subprocess
import sys

import pytest
import torch
from numbered import encode, number_of, numbers_of
from tars import write_shard

from toolkit.contracts import DataError
from toolkit.data import InMemoryClips, VideoClips, VideoShards, read_video, sample_clips, write_video
from toolkit.data.reading.transforms import to_pixels
from toolkit.data.reading.video_file import VideoFile
from toolkit.registry import DATASETS


def clips_of(path, **options):
    return VideoClips(path=str(path), **{"size": 64, "num_frames": 5} | options)


def numbers_in(clips):
    return [numbers_of(sample["pixels"]) for sample in clips]


def test_it_is_built_by_name_and_has_its_config(short_video):
    clips = DATASETS.build({"type": "VideoClips", "path": str(short_video), "size": [32, 48]})
    assert clips.modality == "video" and len(clips) == 1
    assert clips.config["num_frames"] == 17 and clips.config["size"] == [32, 48]
    sample = clips[0]
    assert sample["pixels"].shape == (3, 17, 32, 48) and sample["pixels"].dtype == torch.float32
    assert sample["key"] == str(short_video) and sample["pixels"].abs().max() <= 1


@pytest.mark.parametrize("kind", [VideoClips, VideoShards])
def test_training_clips_are_consecutive_and_start_anywhere(tmp_path, kind):
    path = encode(tmp_path / "a.mp4", num_frames=12)
    samples = {str(number): {"mp4": path.read_bytes()} for number in range(100)}
    paths = [str(path)] * 100 if kind is VideoClips else str(write_shard(tmp_path / "a.tar", samples))
    runs = numbers_in(kind(path=paths, num_frames=5, size=64, flip=0.0))
    assert len(runs) == 100 and all(run == list(range(run[0], run[0] + 5)) for run in runs)
    assert {run[0] for run in runs} == set(range(8))  # every start that leaves five frames


def test_evaluation_clips_span_the_file_and_never_change(short_video):
    clips = clips_of(short_video, train=False, clips_per_video=3)
    assert len(clips) == 3
    assert [run[0] for run in numbers_in(clips)] == [0, 18, 35]
    assert [clips[i]["key"] for i in range(3)] == [f"{short_video}#{i}" for i in range(3)]
    assert torch.equal(clips[1]["pixels"], clips[1]["pixels"])
    assert numbers_in(clips_of(short_video, train=False))[0][0] == 18  # one clip: the middle
    with pytest.raises(IndexError):
        clips[3]


def test_frame_stride_counts_frames_of_the_stream(short_video):
    clips = clips_of(short_video, train=False, frame_stride=4, clips_per_video=2)
    assert numbers_in(clips) == [[0, 4, 8, 12, 16], [23, 27, 31, 35, 39]]


@pytest.mark.parametrize(("fps", "expected"), [(12.5, [0, 2, 4, 6, 8]), (10, [0, 2, 5, 7, 10]),
                                               (50, [0, 0, 1, 1, 2]), (25, [0, 1, 2, 3, 4])])
def test_a_target_rate_takes_the_nearest_frames(short_video, fps, expected):
    first, last = numbers_in(clips_of(short_video, train=False, clips_per_video=2, fps=fps))
    # where two frames are equally near, either will do
    assert max(abs(a - b) for a, b in zip(first, expected, strict=True)) <= (1 if fps in (10, 50) else 0)
    assert last[-1] == 39


def test_a_target_rate_follows_timestamps_where_the_rate_varies(tmp_path):
    ticks = [100 * k for k in range(20)] + [2000 + 20 * k for k in range(60)]  # 10, then 50 per second
    path = encode(tmp_path / "uneven.mkv", num_frames=80, ticks=ticks, b_frames=2)
    clips = clips_of(path, num_frames=4, fps=10, flip=0.0)
    nearest = [min(range(80), key=lambda number: abs(ticks[number] - at)) for at in range(ticks[-1])]
    possible = {tuple(nearest[start::100][:4]) for start in range(ticks[-1] - 300)}
    seen = {tuple(numbers_of(clips[0]["pixels"])) for _ in range(40)}
    assert seen <= possible and len(seen) > 10


@pytest.mark.parametrize(("longest", "options"), [(13, {}), (5, {"frame_stride": 3}), (7, {"fps": 12.5})])
def test_a_clip_as_long_as_the_file_is_read_and_a_longer_one_is_refused(tmp_path, longest, options):
    path = encode(tmp_path / "short.mp4", num_frames=13, b_frames=2)
    assert clips_of(path, num_frames=longest, **options)[0]["pixels"].shape[1] == longest
    with pytest.raises(DataError, match=r"needed .* got .* ask for shorter clips") as caught:
        clips_of(path, num_frames=longest + 1, **options)[0]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("kind", "options", "message"), [
    (VideoClips, {"fps": 8, "frame_stride": 2}, "either frame_stride or a positive fps"),
    (VideoClips, {"fps": -1}, "either frame_stride or a positive fps"),
    (VideoShards, {"fps": 0}, "a positive fps"),
    (VideoClips, {"num_frames": 0}, "at least 1"),
    (VideoShards, {"num_frames": 0}, "at least 1"),
    (VideoClips, {"short_edge": 32, "size": 64}, "short_edge 32 cannot cover size"),
    (VideoShards, {"short_edge": 8, "size": 32}, "cannot cover size"),
    (VideoClips, {"samples": "all", "path": None}, "samples takes one of"),
    (VideoClips, {"index_dir": __file__}, "index_dir takes a folder, got .*test_videos.py")])
def test_numbers_that_do_not_fit_are_refused_at_construction(short_video, kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"path": str(short_video)} | options)


def test_without_a_path_the_sample_clips_are_used_and_logged(caplog):
    with caplog.at_level(logging.INFO):
        clips = VideoClips(num_frames=3, size=(72, 88), train=False)
    assert clips.files == sample_clips("eval") and "carphone" in caplog.text
    frames, _ = read_video(clips.files[0], start=58, num_frames=5)
    assert clips[0]["pixels"].shape == (3, 3, 72, 88)
    assert {clip.name for clip in sample_clips("train")}.isdisjoint(clip.name for clip in clips.files)
    full = VideoClips(num_frames=3, size=(144, 176), train=False)[0]["pixels"]
    assert any(torch.equal(full[:, :1], to_pixels(frame[None])) for frame in frames)


@pytest.fixture
def folder(tmp_path):
    ramp = torch.linspace(-1, 1, 20).view(1, 20, 1, 1)
    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", (ramp * (1 - number) + torch.zeros(3, 20, 48, 64)), fps=10)
    return tmp_path


@pytest.mark.parametrize("options", [
    dict(train=False), dict(train=False, frame_stride=2), dict(train=False, short_edge=40),
    dict(train=False, size=(24, 40)), dict(short_edge=36)])
def test_clips_in_memory_equal_those_read_by_seeking(folder, options):
    options = dict(path=str(folder), num_frames=5, size=32, clips_per_video=3) | options
    kept, sought = InMemoryClips(**options), VideoClips(**options)
    assert len(kept) == len(sought) == (2 if "train" not in options else 6)
    for seed in range(6):
        samples = []
        for clips in (kept, sought):
            torch.manual_seed(seed)
            samples.append(clips[seed % len(clips)])
        assert samples[0]["key"] == samples[1]["key"] and samples[0]["pixels"].equal(samples[1]["pixels"])


def test_a_file_in_memory_is_decoded_once_and_named_if_too_short(folder):
    clips = InMemoryClips(path=str(folder / "0.mp4"), num_frames=2, size=32)
    with pytest.raises(DataError, match=r"0\.mp4: needed 41 frames \(21 with stride 2\), got 20"):
        InMemoryClips(path=str(folder / "0.mp4"), num_frames=21, frame_stride=2, size=32)[0]
    first = clips[0]["key"]
    (folder / "0.mp4").unlink()
    assert clips[0]["key"] == first


@pytest.mark.parametrize("thread_type", ["NONE", "AUTO"])
def test_one_file_is_read_at_several_places_in_turn(tmp_path, thread_type):
    path = encode(tmp_path / "a.mp4", num_frames=40, b_frames=2)
    with VideoFile(path, thread_type=thread_type) as video:
        runs = [video.rgb_frames(start=start) for start in (0, 20, 33)]
        shown = [[number_of(next(run)) for run in runs] for _ in range(7)]
        assert shown == [[place, 20 + place, 33 + place] for place in range(7)]
        assert [next(run, None) is None for run in runs] == [False, False, True]
        assert number_of(video.read([3])[0]) == 3 and number_of(next(runs[0])) == 8
        assert [number_of(frame) for frame in runs[1]] == list(range(28, 40))
    with VideoFile(path, thread_type=thread_type) as video:
        frames = video.rgb_frames()
        next(frames)
        assert len(video.times) == 40  # reads all packets
        assert [number_of(frame) for frame in frames] == list(range(1, 40))


def test_a_closed_file_is_not_read(tmp_path):
    with VideoFile(encode(tmp_path / "a.mp4", num_frames=40)) as video:
        next(frames := video.rgb_frames())
    for read in (lambda: next(frames), lambda: video.read([3]), lambda: next(video.rgb_frames())):
        with pytest.raises(ValueError, match="is closed; read its frames inside the with block"):
            read()


def test_a_file_that_is_removed_before_it_is_read_is_named(tmp_path):
    path = encode(tmp_path / "a.mp4", num_frames=5)
    with VideoFile(path) as video:
        path.unlink()
        with pytest.raises(DataError, match=r"a\.mp4: needed a file, got No such file or directory"):
            video.times  # noqa: B018


def test_closing_does_not_wait_for_threads_that_log(tmp_path):
    """With ``av.logging.set_level``, which libraries call, FFmpeg's threads need the interpreter to log."""
    path = encode(tmp_path / "a.mp4", num_frames=60, b_frames=2)
    program = f"""
import av
from toolkit.data.reading.video_file import VideoFile
av.logging.set_level(av.logging.TRACE)
for _ in range(3):
    with VideoFile({str(path)!r}, thread_type="AUTO") as video:
        for number in (5, 1, 7, 0):
            next(video.frames_from(number))
    dropped = VideoFile({str(path)!r}, thread_type="AUTO").frames_from()
    next(dropped)
    del dropped, video
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True)

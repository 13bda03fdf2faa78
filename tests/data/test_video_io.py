"""Frame numbers are checked against what the frames themselves show."""

import numpy as np
import pytest
import torch
from numbered import encode, number_of
from unusual_files import audio_only, torn_stream, turned_by_matrix

from toolkit.contracts import DataError
from toolkit.data import InMemoryClips, iter_frames, open_media, read_video, write_video
from toolkit.data.reading.clips import Clipping
from toolkit.data.reading.video_file import VideoFile, rgb

UNEVEN = [40 * k + 10 * (k % 3) for k in range(100)]
FORMATS = {
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.mp4": {"codec": "mpeg4", "b_frames": 2},
    "h264.mp4": {"gop": 25, "b_frames": 3},
    "h264_open.mp4": {"gop": 25, "options": {"x264-params": "open-gop=1:keyint=25:bframes=3"}},
    "h264_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=25"}},
    "h264.mkv": {"gop": 25, "b_frames": 3},
    "h264.ts": {"gop": 25, "b_frames": 3},
    "live.mkv": {"b_frames": 2, "container_options": {"live": "1"}},
    "raw.h264": {"b_frames": 2},
    "mpeg1.mpg": {"codec": "mpeg1video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2},
    "raw.m1v": {"codec": "mpeg1video", "b_frames": 2},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "flv1.flv": {"codec": "flv1"},
    "uneven.mkv": {"b_frames": 2, "ticks": UNEVEN},
    "uneven.mp4": {"b_frames": 2, "ticks": UNEVEN},
    "late.mp4": {"b_frames": 2, "ticks": [500 + 40 * k for k in range(100)]},
}


@pytest.fixture(params=FORMATS)
def video(request, tmp_path):
    return encode(tmp_path / request.param, num_frames=100, **FORMATS[request.param])


def test_frame_numbers_are_exact_after_a_seek(video):
    for start in (0, 1, 24, 25, 61, 98):
        frames, _ = read_video(video, start=start, num_frames=2)
        assert [number_of(frame) for frame in frames] == [start, start + 1]


def test_sought_clips_are_what_reading_from_the_start_shows(video):
    with VideoFile(video) as file:
        whole = list(file.frames_from())
    assert [number_of(rgb(frame)) for _, frame in whole] == list(range(100))
    for start in (1, 30, 74, 96):
        with VideoFile(video) as file:
            clip = Clipping(num_frames=2, frame_stride=3).frames(file, start=whole[start][0])
        first, second = (number_of(frame) for frame in clip)
        # half a period early is near enough where the rate varies; raw streams only guess times
        tolerance = 1 if video.stem in ("uneven", "raw") else 0
        assert second - first == 3 and abs(first - start) <= tolerance


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mpg"])
def test_decoding_is_limited_to_the_group_of_pictures_and_the_clip(tmp_path, suffix):
    codec = {"avi": "mpeg4", "mpg": "mpeg2video"}.get(suffix, "libx264")
    path = encode(tmp_path / f"long.{suffix}", num_frames=2000, codec=codec, gop=12,
                  b_frames=0 if suffix == "avi" else 2)
    with VideoFile(path) as file:
        clip = Clipping(num_frames=17).frames(file, start=file.info.start + 1900 / 25)
        assert [number_of(frame) for frame in clip] == list(range(1900, 1917))
        assert file.num_decoded < 12 + 17 + 4  # a late landing costs its first frame


def test_a_clip_that_starts_too_late_is_moved_to_the_end_of_the_stream(short_video):
    with VideoFile(short_video) as file:
        clip = Clipping(num_frames=5, frame_stride=2).frames(file, start=38 / 25)
    assert [number_of(frame) for frame in clip] == [31, 33, 35, 37, 39]


def test_stride_counts_frames_and_divides_the_rate(short_video):
    frames, fps = read_video(short_video, start=3, num_frames=4, frame_stride=5)
    assert [number_of(frame) for frame in frames] == [3, 8, 13, 18] and fps == 5.0
    assert [number_of(frame) for frame in iter_frames(short_video, start=30, frame_stride=4)] == [30, 34, 38]


def test_quarter_turns_of_the_display_matrix_are_applied(tmp_path):
    expected = turned_by_matrix(tmp_path / "portrait.mp4", quarter_turns=1)
    frames, _ = read_video(tmp_path / "portrait.mp4")
    assert frames.shape == expected.shape == (5, 64, 32, 3)
    inside = np.s_[:, 4:28, 4:12]  # of the blue quarter, which was below: its left is up now
    assert tuple(expected[inside][0, 0, 0]) == (0, 0, 255)
    assert np.abs(frames.numpy()[inside].astype(int) - expected[inside]).max() < 8


def test_written_videos_keep_pixels_rate_and_length(tmp_path):
    ramp = torch.linspace(-1, 1, 48).expand(3, 9, 32, 48)
    write_video(tmp_path / "ramp.mp4", ramp, fps=29.97)
    frames, fps = read_video(tmp_path / "ramp.mp4")
    assert frames.shape == (9, 32, 48, 3) and fps == pytest.approx(29.97, abs=1e-3)
    assert (frames.float() - (ramp.permute(1, 2, 3, 0) + 1) * 127.5).abs().mean() < 2


def test_odd_sizes_are_written_with_the_last_row_and_column_repeated(tmp_path):
    pixels = torch.zeros(3, 2, 31, 33)
    pixels[:, :, -1] = 1.0
    write_video(tmp_path / "odd.mp4", pixels, fps=25)
    frames, _ = read_video(tmp_path / "odd.mp4")
    assert frames.shape == (2, 32, 34, 3) and frames[:, 30:].min() > 230


def test_write_video_refuses_a_batch(tmp_path):
    with pytest.raises(ValueError, match=r"from pixels \(3, T, H, W\), got \(1, 3, 2, 8, 8\)"):
        write_video(tmp_path / "x.mp4", torch.zeros(1, 3, 2, 8, 8), fps=25)


def test_unreadable_files_are_named_with_what_was_needed(tmp_path, short_video):
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video at all" * 50)
    audio_only(tmp_path / "sound.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(short_video.read_bytes()[:500])
    for path, got in ((garbage, "can decode, got"), (cut, "can decode, got"),
                      (tmp_path / "sound.mp4", "needed a video stream, got none"),
                      (tmp_path / "missing.mp4", "No such file")):
        with pytest.raises(DataError, match=got) as caught:
            read_video(path)
        assert str(caught.value).startswith(f"{path}: needed") and caught.value.path == str(path)
    with pytest.raises(DataError, match="needed 20 frames from frame 30 on with stride 1, got 10"):
        read_video(short_video, start=30, num_frames=20)
    with pytest.raises(DataError, match="needed some frames from frame 40"):
        read_video(short_video, start=40)


def chunks(path):
    with open_media(path) as media:
        return list(media.chunks(2))


@pytest.mark.parametrize("read", [read_video, chunks, lambda path: list(iter_frames(path)), lambda path: InMemoryClips(
    path=str(path), num_frames=1, size=16)[0]], ids=["read_video", "open_media", "iter_frames", "InMemoryClips"])
def test_a_frame_that_is_damaged_makes_the_file_unreadable(tmp_path, read):
    torn_stream(tmp_path / "torn.ts")
    with pytest.raises(DataError, match=r"torn\.ts: needed whole frames, got damaged ones") as caught:
        read(tmp_path / "torn.ts")
    assert caught.value.path == str(tmp_path / "torn.ts")
    assert len(read_video(tmp_path / "torn.ts", num_frames=3)[0]) == 3  # those before it

"""Images and videos read frame by frame, in clips and in chunks, and written.

Frame numbers are checked against what the frames themselves show.
"""

from itertools import islice

import numpy as np
import pytest
import torch
import unusual_files as make
from numbered import encode, number_of, numbered_frame, numbers_of, write_frames
from PIL import Image

from toolkit.contracts import DataError
from toolkit.data import InMemoryClips, VideoWriter, iter_frames, open_media, read_image, read_video
from toolkit.data.reading.media import frames_per_chunk
from toolkit.data.reading.transforms import resize, to_pixels
from toolkit.data.reading.video_file import VideoFile
from toolkit.data.reading.writing import MediaWriter, write_image, write_video

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


@pytest.mark.parametrize("name", FORMATS)
def test_frame_numbers_and_clips_are_exact_after_a_seek(tmp_path, name):
    video = encode(tmp_path / name, num_frames=100, **FORMATS[name])
    for start in (0, 1, 24, 25, 61, 98):
        frames, _ = read_video(video, start=start, num_frames=2)
        assert [number_of(frame) for frame in frames] == [start, start + 1]
    with VideoFile(video) as file:
        assert [number_of(frame) for frame in file.rgb_frames()] == list(range(100)) and len(file.times) == 100
    for start in (1, 30, 74, 96):
        with VideoFile(video) as file:
            assert [number_of(frame) for frame in file.read([start, start + 3, start + 3])] == [start] + [start + 3] * 2


@pytest.mark.parametrize("numbers", [[10], [13], [5, 10], [5, 13]])
def test_a_frame_beyond_the_end_is_an_error(tmp_path, numbers):
    with VideoFile(encode(tmp_path / "a.mp4", num_frames=10)) as video, \
            pytest.raises(DataError, match=f"needed frame {numbers[-1]}, got 10 frames; ask for fewer"):
        video.read(numbers)


@pytest.mark.parametrize(("suffix", "options"), [
    ("mp4", dict(b_frames=2)), ("mp4", dict(b_frames=2, gop=50)), ("mkv", dict(b_frames=2)),
    ("avi", dict(codec="mpeg4")), ("mpg", dict(codec="mpeg2video", b_frames=2))])
def test_decoding_is_limited_to_the_group_of_pictures_and_the_clip(tmp_path, suffix, options):
    path = encode(tmp_path / f"long.{suffix}", num_frames=2000, **options)
    # program streams do not store every frame's time, so frames are counted from one group earlier
    limit = options.get("gop", 12) * (2 if suffix == "mpg" else 1) + 17
    with VideoFile(path) as file:
        assert len(file.times) == 2000 and file.num_decoded <= limit  # kept from here on
    for start in (7, 130, 299, 300, 1900):
        expected = list(range(start, start + 17))
        with VideoFile(path) as file:
            assert [number_of(frame) for frame in file.read(expected)] == expected
            assert file.num_decoded < limit + 4  # the decoder's delay
        with VideoFile(path) as file:
            assert [number_of(frame) for frame in islice(file.rgb_frames(start=start), 17)] == expected
            assert file.num_decoded <= limit


def test_stride_counts_frames_and_divides_the_rate(short_video):
    frames, fps = read_video(short_video, start=3, num_frames=4, frame_stride=5)
    assert [number_of(frame) for frame in frames] == [3, 8, 13, 18] and fps == 5.0
    assert [number_of(frame) for frame in iter_frames(short_video, start=30, frame_stride=4)] == [30, 34, 38]


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


def test_frames_that_a_video_does_not_have_are_refused(tmp_path, short_video):
    with pytest.raises(DataError, match=r"missing\.mp4: needed .*No such file"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(DataError, match="needed 20 frames from frame 30 on with stride 1, got 10"):
        read_video(short_video, start=30, num_frames=20)
    with pytest.raises(DataError, match="needed some frames from frame 40"):
        read_video(short_video, start=40)


def frames_of(media, length):
    return torch.cat(list(media.chunks(length)), dim=1)


@pytest.mark.parametrize("length", [1, 7, 40, 99])
@pytest.mark.parametrize("held", [False, True], ids=["file", "bytes"])
def test_chunks_are_all_frames_in_order(short_video, length, held):
    source, name = (short_video.read_bytes(), "short.mp4") if held else (short_video, None)
    with open_media(source, name=name) as media:
        assert (media.size, media.original_size, media.fps, media.num_frames) == ((64, 64), (64, 64), 25.0, 40)
        chunks = list(media.chunks(length))
    assert {chunk.shape[1] for chunk in chunks[:-1]} <= {length} and not media.more
    assert numbers_of(torch.cat(chunks, dim=1)) == list(range(40))


@pytest.mark.parametrize(("options", "numbers", "fps", "more"), [
    ({"num_frames": 11}, range(11), 25.0, True), ({"num_frames": 40}, range(40), 25.0, False),
    ({"num_frames": 99}, range(40), 25.0, False), ({"frame_stride": 3}, range(0, 40, 3), 25 / 3, False),
    ({"num_frames": 13, "frame_stride": 3}, range(0, 37, 3), 25 / 3, True)])
def test_number_and_stride_choose_the_frames(short_video, options, numbers, fps, more):
    with open_media(short_video, **options) as media:
        assert numbers_of(frames_of(media, 4)) == list(numbers)
        assert (media.fps, media.more, media.num_frames) == (fps, more, len(numbers))


def test_resizing_frames_equals_resizing_the_clip(tmp_path):
    write_video(tmp_path / "wide.mp4", torch.rand(3, 5, 40, 66) * 2 - 1, fps=24)
    with open_media(tmp_path / "wide.mp4", short_edge=23) as media:
        pixels = frames_of(media, 2)
        assert (media.original_size, media.size) == ((40, 66), (23, 38))
    assert torch.equal(pixels, to_pixels(resize(read_video(tmp_path / "wide.mp4")[0], size=(23, 38))))


@pytest.mark.parametrize("held", [False, True], ids=["file", "bytes"])
def test_an_image_is_one_chunk_of_one_frame(tmp_path, held):
    path = tmp_path / "one.png"
    write_image(path, torch.rand(3, 1, 9, 14) * 2 - 1)
    with open_media(path.read_bytes() if held else path, name=path.name) as media:
        chunk, = media.chunks(16)
    assert (media.fps, media.num_frames, media.size) == (None, 1, (9, 14))
    assert torch.equal(chunk, read_image(path))


def test_an_animated_gif_is_a_video(tmp_path):
    frames = [Image.fromarray(numbered_frame(number)) for number in range(5)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=100)
    with open_media((tmp_path / "x.gif").read_bytes(), name="x.gif") as media:
        assert media.fps == 10.0 and numbers_of(frames_of(media, 2)) == list(range(5))


@pytest.mark.parametrize(("name", "writer", "words"), [
    ("text.png", make.text, "an image that Pillow can read"), ("text.mp4", make.text, "a video that FFmpeg can decode"),
    ("empty.mp4", make.empty, "a video that FFmpeg can decode"), ("sound.mp4", make.audio_only, "a video stream"),
    ("cut.mp4", make.truncated_video, "a video stream")])
def test_unreadable_files_are_named_at_opening(tmp_path, name, writer, words):
    path = tmp_path / name
    writer(path)
    readers = [lambda: open_media(path), lambda: open_media(path.read_bytes(), name=path)]
    for read in readers if name.endswith(".png") else [*readers, lambda: read_video(path)]:
        with pytest.raises(DataError, match=f"needed {words}, got") as caught:
            read()
        assert str(caught.value).startswith(f"{path}: needed") and caught.value.path == str(path)


def changing_size(path):
    """Raw frames: five of 64 x 64, then five of 32 x 32."""
    parts = [write_frames(path.with_suffix(".h264"), [np.zeros((size, size, 3), np.uint8)] * 5).read_bytes()
             for size in (64, 32)]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("length", [1, 4, 16])
def test_an_error_in_the_middle_is_raised_after_the_frames_before_it(tmp_path, length):
    with open_media(changing_size(tmp_path / "both.bin")) as media:
        chunks = media.chunks(length)
        with pytest.raises(DataError, match=r"frames of one size.*re-encode") as caught:
            seen = 0
            while True:
                seen += next(chunks).shape[1]
    assert caught.value.path == str(tmp_path / "both.bin") and seen == 5 // length * length


def test_closing_in_the_middle_waits_for_the_current_chunk(short_video):
    for _ in range(20):
        with open_media(short_video) as media:
            chunks = media.chunks(2)
            next(chunks)
    assert next(chunks, None) is None


@pytest.mark.parametrize("options", [{"num_frames": 0}, {"frame_stride": 0}, {"short_edge": 0}])
def test_numbers_below_one_are_refused(short_video, options):
    with pytest.raises(ValueError, match="at least 1"):
        open_media(short_video, **options)
    with pytest.raises(ValueError, match="needs the name"):
        open_media(short_video.read_bytes())
    with open_media(short_video) as media, pytest.raises(ValueError, match="at least 1 frame, got 0"):
        next(media.chunks(0))


@pytest.mark.parametrize("stride_t", [1, 2, 4, 8])
def test_chunks_are_bounded_in_pixels_and_fit_the_stride(stride_t):
    for height, width in ((16, 16), (64, 64), (128, 128), (240, 416), (720, 1280), (2160, 3840)):
        frames = frames_per_chunk(height, width, stride_t=stride_t)
        assert 1 <= frames <= 32 and (frames == 1 or frames * height * width <= 2**21)
        assert frames % stride_t == 0 or frames < stride_t


def test_written_bytes_do_not_depend_on_the_pieces(tmp_path):
    pixels = torch.rand(3, 60, 33, 48) * 2 - 1
    whole = tmp_path / "whole.mp4"
    write_video(whole, pixels, fps=29.97)
    for name, lengths in {"ones": [1] * 60, "uneven": [1, 7, 2, 50], "halves": [30, 30]}.items():
        with VideoWriter(tmp_path / f"{name}.mp4", fps=29.97) as video:
            for piece in pixels.split(lengths, dim=1):
                video.write(piece)
        assert (tmp_path / f"{name}.mp4").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("writer", [lambda path: VideoWriter(path / "x.mp4", fps=25),
                                    lambda path: MediaWriter(path / "x", fps=25)], ids=["video", "media"])
def test_an_error_leaves_the_former_file_and_no_half_written_one(tmp_path, writer):
    write_video(tmp_path / "x.mp4", torch.zeros(3, 3, 16, 16), fps=25)
    before = (tmp_path / "x.mp4").read_bytes()
    for error in (DataError("torn"), KeyboardInterrupt()):
        with pytest.raises(type(error)), writer(tmp_path) as out:
            out.write(torch.zeros(3, 5, 16, 16))
            raise error
        assert [file.name for file in tmp_path.iterdir()] == ["x.mp4"]
        assert (tmp_path / "x.mp4").read_bytes() == before
    with pytest.raises(ValueError, match="at least one frame, got none"), writer(tmp_path):
        pass
    assert (tmp_path / "x.mp4").read_bytes() == before


def test_frames_of_another_size_and_batches_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"from pixels \(3, T, H, W\), got \(1, 3, 2, 8, 8\)"):
        write_video(tmp_path / "x.mp4", torch.zeros(1, 3, 2, 8, 8), fps=25)
    with pytest.raises(ValueError, match="first one's size, 16 x 16, got 18 x 16"), \
            VideoWriter(tmp_path / "x.mp4", fps=25) as video:
        video.write(torch.zeros(3, 1, 16, 16))
        video.write(torch.zeros(3, 1, 18, 16))
    assert list(tmp_path.iterdir()) == []


def test_enlarging_a_strip_is_refused(tmp_path):
    make.strip(tmp_path / "strip.png")
    with open_media(tmp_path / "strip.png") as media:
        assert media.size == (20_000, 1)
    with pytest.raises(DataError, match=r"strip\.png: needed frames at most 100 times as long as wide") as caught:
        open_media(tmp_path / "strip.png", short_edge=16)
    assert caught.value.path == str(tmp_path / "strip.png")


def read_chunks(path):
    with open_media(path) as media:
        return frames_of(media, 2)


@pytest.mark.parametrize("read", [read_video, read_chunks, lambda path: list(iter_frames(path)),
                                  lambda path: InMemoryClips(path=str(path), num_frames=1, size=16)[0]],
                         ids=["read_video", "open_media", "iter_frames", "InMemoryClips"])
def test_a_frame_that_is_damaged_makes_the_file_unreadable(tmp_path, read):
    make.torn_stream(tmp_path / "torn.ts")
    with pytest.raises(DataError, match=r"torn\.ts: needed whole frames, got damaged ones") as caught:
        read(tmp_path / "torn.ts")
    assert caught.value.path == str(tmp_path / "torn.ts")
    assert len(read_video(tmp_path / "torn.ts", num_frames=3)[0]) == 3  # those before it

"""Images and videos read in chunks, and written frame by frame."""

import av
import pytest
import torch
from numbered import encode, numbered_frame, numbers_of
from PIL import Image
from unusual_files import strip

from toolkit.contracts import DataError
from toolkit.data import VideoWriter, open_media, read_image, read_video, write_image, write_video
from toolkit.data.reading.media import frames_per_chunk
from toolkit.data.reading.transforms import resize, to_pixels
from toolkit.data.reading.video_file import VideoFile
from toolkit.data.reading.writing import MediaWriter


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


@pytest.mark.parametrize("name", ["torn.mp4", "torn.png", "empty.mp4"])
@pytest.mark.parametrize("held", [False, True], ids=["file", "bytes"])
def test_unreadable_files_are_named_at_opening(tmp_path, name, held):
    (tmp_path / name).write_bytes(b"" if name == "empty.mp4" else b"neither" * 99)
    with pytest.raises(DataError, match=r"needed .*, got") as caught:
        open_media((tmp_path / name).read_bytes() if held else tmp_path / name, name=tmp_path / name)
    assert caught.value.path == str(tmp_path / name)


def changing_size(path):
    """Raw frames: five of 64 x 64, then five of 32 x 32."""
    with open(path, "wb") as file:
        for size in (64, 32):
            write_video(path.with_suffix(".mp4"), torch.zeros(3, 5, size, size), fps=25)
            with av.open(str(path.with_suffix(".mp4"))) as source, av.open(str(path.with_suffix(".h264")), "w") as out:
                stream = out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        out.mux(packet)
            file.write(path.with_suffix(".h264").read_bytes())
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


def test_frames_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="first one's size, 16 x 16, got 18 x 16"), \
            VideoWriter(tmp_path / "x.mp4", fps=25) as video:
        video.write(torch.zeros(3, 1, 16, 16))
        video.write(torch.zeros(3, 1, 18, 16))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gop", [12, 50])
def test_reading_a_clip_decodes_its_group_of_pictures_and_no_more(tmp_path, gop):
    path = encode(tmp_path / "long.mp4", num_frames=600, gop=gop, b_frames=2)
    for start in (7, 130, 299, 300, 577):
        with VideoFile(path) as video:
            frames = video.frames_at(start)
            for _ in range(17):
                next(frames)
            assert video.num_decoded <= gop + 17


def test_enlarging_a_strip_is_refused(tmp_path):
    strip(tmp_path / "strip.png")
    with open_media(tmp_path / "strip.png") as media:
        assert media.size == (20_000, 1)
    with pytest.raises(DataError, match=r"strip\.png: needed frames at most 100 times as long as wide") as caught:
        open_media(tmp_path / "strip.png", short_edge=16)
    assert caught.value.path == str(tmp_path / "strip.png")

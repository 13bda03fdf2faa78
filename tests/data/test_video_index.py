"""Frame numbers, counts and times of real videos of all kinds agree with a plain sequential decode."""

from __future__ import annotations

import io
import struct
import tempfile
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from numbered import encode, number_of, numbers_of, remux
from PIL import Image

from toolkit.contracts import DataError
from toolkit.data import InMemoryClips, VideoClips, open_media, read_video
from toolkit.data.reading import video_file
from toolkit.data.reading.frames import rgb
from toolkit.data.reading.video_file import VideoFile

CONTAINERS = {"mp4": ["libx264", "mpeg4", "libvpx-vp9"], "mov": ["libx264", "mpeg4"],
              "mkv": ["libx264", "mpeg4", "libvpx", "libvpx-vp9", "mpeg2video"], "webm": ["libvpx", "libvpx-vp9"],
              "avi": ["libx264", "mpeg4", "mpeg2video"], "ts": ["libx264", "mpeg2video"], "mpg": ["mpeg2video"],
              "flv": ["libx264", "flv1"], "nut": ["libx264", "mpeg4"], "h264": ["libx264"]}
JOINABLE = ("ts", "mpg", "mkv", "webm", "h264")  # byte by byte
REORDER = ("libx264", "mpeg4", "mpeg2video")
MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0),
            (0, -1, -1, 0)]


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Set the display matrix of an mp4 or mov file."""
    content = path.read_bytes()
    plain, turned = (struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
                     for a, b, c, d in (MATRICES[0], matrix))
    start = content.index(b"tkhd")
    place = content.index(plain, start)
    path.write_bytes(content[:place] + turned + content[place + len(plain):])


def shown(path: Path) -> tuple[list[torch.Tensor], bool]:
    """All frames of a plain sequential decode, without what cannot be decoded before the first keyframe.

    And whether the decoder found all data: in parts that were cut and joined it may not.
    """
    frames, begun = [], False
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            begun = begun or packet.is_keyframe
            try:
                frames += packet.decode()
            except av.error.InvalidDataError:
                if begun:
                    raise
        return [rgb(frame) for frame in frames], not any(frame.is_corrupt for frame in frames)


@dataclass
class Part:
    codec: str
    num_frames: int
    b_frames: int
    gop: int
    open_gop: bool
    earlier: int
    without: int

    def write(self, path: Path, *, options: dict | None = None) -> Path:
        x264 = {"x264-params": f"open-gop=1:bframes={self.b_frames}"} if self.open_gop else {}
        # FFmpeg does not recognise transport streams of a few bytes
        suffix = ".nut" if path.suffix in (".ts", ".mpg") else path.suffix
        whole = encode(path.with_name(f"{path.stem}_whole{suffix}"), num_frames=self.num_frames, codec=self.codec,
                       gop=self.gop, b_frames=self.b_frames if self.codec in REORDER else 0,
                       options=x264 if self.codec == "libx264" else {})
        # where no keyframe is left, decoders of the MPEG-4 kind invent frames
        least = self.gop if self.codec in ("mpeg4", "flv1") else 1
        without = max(0, min(self.without, self.num_frames - least - self.b_frames))
        return remux(whole, path, earlier=self.earlier, without=without, options=options)


@st.composite
def videos(draw):
    suffix = draw(st.sampled_from(sorted(CONTAINERS)))
    codec = draw(st.sampled_from(CONTAINERS[suffix]))
    count = draw(st.integers(1, 3)) if suffix in JOINABLE else 1
    # Times of joined parts begin again: headers do not show where a part that is cut follows another in time.
    earlier, least = draw(st.integers(-40, 25)), 1 if count == 1 else 16
    part = st.builds(Part, codec=st.just(codec), num_frames=st.integers(least, 40), b_frames=st.integers(0, 3),
                     gop=st.integers(1, 16), open_gop=st.booleans(), earlier=st.just(earlier),
                     without=st.sampled_from([0, 0, 0, 1, 2, 5, 9]))
    parts = draw(st.lists(part, min_size=count, max_size=count))
    fragments = suffix in ("mp4", "mov") and draw(st.booleans())
    return suffix, parts, fragments, draw(st.sampled_from(MATRICES)) if suffix in ("mp4", "mov") else None


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(video=videos(), draw=st.data())
def test_numbers_count_and_clips_agree_with_a_sequential_decode(video, draw):
    suffix, parts, fragments, matrix = video
    with tempfile.TemporaryDirectory() as folder:
        options = {"movflags": "frag_keyframe+empty_moov"} if fragments else {}
        try:
            files = [part.write(Path(folder, f"{number}.{suffix}"), options=options)
                     for number, part in enumerate(parts)]
        except av.FFmpegError:  # some containers take no negative times
            reject()
        path = Path(folder, f"video.{suffix}")
        path.write_bytes(b"".join(file.read_bytes() for file in files))
        if matrix is not None:
            turn(path, matrix)
        try:
            expected, is_sound = shown(path)
        except (av.FFmpegError, IndexError):  # joined parts that FFmpeg cannot decode, or finds no video in
            with pytest.raises(DataError), VideoFile(path) as file:
                list(file.rgb_frames())
            return
        count = len(expected)
        with VideoFile(path) as file:
            assert len(file.times) == count and (np.diff(file.times) >= 0).all()
            for number in range(count):
                last = min(number + draw.draw(st.integers(0, 3)), count - 1)
                with nullcontext() if is_sound else suppress(DataError):  # damaged frames are refused
                    for read, frame in zip(file.read([number, last]), (expected[number], expected[last]), strict=True):
                        assert torch.equal(read, frame), (number, last)
        if count == 0 or not is_sound:
            return
        with open_media(path) as media:
            assert media.num_frames == count and sum(chunk.shape[1] for chunk in media.chunks(7)) == count
        length = draw.draw(st.integers(1, count))
        options = dict(path=str(path), num_frames=length, size=64, train=False, clips_per_video=3)
        for clips in (VideoClips(**options), InMemoryClips(**options)):
            for place in range(3):
                start = round(place / 2 * (count - length))
                pixels = ((clips[place]["pixels"] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
                assert torch.equal(pixels, torch.stack(expected[start:start + length]))


# Single kinds, with the numbers that they must show.

def starts_of(path: Path, *, clips: int) -> list[int]:
    """The first frames of evenly spaced clips of five, which must be the same in memory."""
    options = dict(path=str(path), num_frames=5, size=64, train=False, clips_per_video=clips)
    runs = [[numbers_of(sample["pixels"]) for sample in kind(**options)] for kind in (VideoClips, InMemoryClips)]
    assert runs[0] == runs[1] and all(run == list(range(run[0], run[0] + 5)) for run in runs[0])
    return [run[0] for run in runs[0]]


@pytest.mark.parametrize(("suffix", "gop", "b_frames"), [
    ("mp4", 50, 0), ("mov", 50, 0), ("mp4", 50, 3), ("mp4", 12, 2)])
def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path, suffix, gop, b_frames):
    whole = encode(tmp_path / f"whole.{suffix}", num_frames=50, gop=gop, b_frames=b_frames)
    cut = remux(whole, tmp_path / f"cut.{suffix}", earlier=20)
    with VideoFile(cut) as file:
        assert len(file.times) == 30 and file.times[-1] == pytest.approx(29 / 25)
    with open_media(cut) as media:
        assert media.num_frames == 30
    assert starts_of(cut, clips=5) == [20 + start for start in (0, 6, 12, 19, 25)]
    assert starts_of(cut, clips=1) in ([20 + 12], [20 + 13])


def test_an_edit_list_that_hides_the_end_does_not_count(tmp_path):
    whole = encode(tmp_path / "whole.mp4", num_frames=50, gop=10)
    content = bytearray(whole.read_bytes())
    edit = content.index(b"elst") + 12  # after version, flags and count: the duration in the movie's clock, 1/1000 s
    assert int.from_bytes(content[edit:edit + 4], "big") == 2000
    content[edit:edit + 4] = (1200).to_bytes(4, "big")
    (path := tmp_path / "shorter.mp4").write_bytes(content)
    expected = [number_of(frame) for frame in shown(path)[0]]
    assert len(expected) in (30, 31)  # FFmpeg keeps the frame that begins where the edit ends
    with VideoFile(path) as file:
        assert len(file.times) == len(expected)
        assert [number_of(frame) for frame in file.read(range(len(expected)))] == expected


@pytest.mark.parametrize(("suffix", "codec", "b_frames", "first", "count"), [
    ("mp4", "libx264", 0, 12, 48), ("mp4", "libx264", 3, 12, 48), ("ts", "libx264", 2, 12, 48),
    ("mkv", "libvpx-vp9", 0, 12, 48), ("webm", "libvpx", 0, 12, 48), ("mkv", "mpeg2video", 2, 12, 48)])
def test_frames_before_the_first_keyframe_do_not_count(tmp_path, caplog, suffix, codec, b_frames, first, count):
    whole = encode(tmp_path / f"whole.{suffix}", num_frames=60, codec=codec, b_frames=b_frames, gop=12)
    cut = remux(whole, tmp_path / f"cut.{suffix}", without=5)
    with caplog.at_level("INFO"), VideoFile(cut) as file:
        assert len(file.times) == count and number_of(file.read([0])[0]) == first
    assert "at its start cannot be decoded" in caplog.text
    assert starts_of(cut, clips=2) == [first, 55]


@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 3), ("libx264", 1), ("mpeg4", 2), ("libx264", 0)])
def test_frames_without_presentation_times_are_counted(tmp_path, codec, b_frames):
    path = encode(tmp_path / "a.avi", num_frames=40, codec=codec, b_frames=b_frames)
    for start in range(39):
        frames, _ = read_video(path, start=start, num_frames=2)
        assert [number_of(frame) for frame in frames] == [start, start + 1]
    assert starts_of(path, clips=3) == [0, 18, 35]
    with VideoFile(path) as file:
        file.index  # noqa: B018
        file.num_decoded = 0
        file.read([30])
        assert file.num_decoded < 3 * 12  # from the group before, not from the start


@pytest.mark.parametrize(("suffix", "codec", "parts", "b_frames"), [
    ("ts", "libx264", [10, 10], 0), ("ts", "libx264", [12, 12, 12], 2), ("ts", "mpeg2video", [9, 14], 2),
    ("mpg", "mpeg2video", [12, 7], 2), ("webm", "libvpx-vp9", [8, 5], 0), ("mkv", "libx264", [20, 14], 2)])
def test_joined_parts_whose_times_begin_again_follow_each_other(tmp_path, suffix, codec, parts, b_frames):
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(encode(tmp_path / f"{number}.{suffix}", num_frames=length, codec=codec,
                                       b_frames=b_frames, gop=6).read_bytes() for number, length in enumerate(parts)))
    expected = [number for length in parts for number in range(length)]
    with VideoFile(joined) as file:
        assert np.allclose(file.times, np.arange(len(expected)) / 25, atol=2e-3) and file.fps == 25
    for start in range(len(expected) - 2):
        frames, _ = read_video(joined, start=start, num_frames=3)
        assert [number_of(frame) for frame in frames] == expected[start:start + 3]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv"])
def test_a_late_start_is_not_part_of_the_duration(tmp_path, suffix):
    whole = encode(tmp_path / "whole.mp4", num_frames=60, gop=12, b_frames=3)
    late = remux(whole, tmp_path / f"late.{suffix}", earlier=-50)
    with VideoFile(late) as file:
        assert len(file.times) == 60 and file.times[0] == 0 and file.times[-1] == pytest.approx(59 / 25, abs=2e-3)
    assert starts_of(late, clips=5) == [0, 14, 28, 41, 55]


def test_reference_frames_that_are_never_shown_do_not_count(tmp_path):
    whole = encode(tmp_path / "whole.webm", num_frames=40, codec="libvpx", gop=12)
    path, hidden = tmp_path / "hidden.webm", (5, 6, 17, 35)
    with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in reader.demux(stream) if packet.size):
            content = bytearray(bytes(packet))
            content[0] &= ~0x10 if number in hidden else 0xFF  # show_frame, RFC 6386
            changed = av.Packet(bytes(content))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, copy
            writer.mux(changed)
    expected = [number for number in range(40) if number not in hidden]
    assert [number_of(frame) for frame in shown(path)[0]] == expected
    with VideoFile(path) as file:
        assert len(file.times) == 36 and not file.index.decoded
        assert [number_of(file.read([number])[0]) for number in range(36)] == expected


@pytest.mark.parametrize(("suffix", "codec", "options"), [
    ("mp4", "libx265", {"x265-params": "log-level=0:bframes=3:open-gop=1"}),
    ("ts", "libx265", {"x265-params": "log-level=0:bframes=3:open-gop=1"}),
    ("mkv", "libx265", {"x265-params": "log-level=0:bframes=3:open-gop=1"}),
    ("webm", "libsvtav1", {"preset": "12", "svtav1-params": "lp=1"})])
def test_every_frame_of_hevc_and_av1_is_found(tmp_path, suffix, codec, options):
    path = encode(tmp_path / f"a.{suffix}", num_frames=40, codec=codec, gop=10, options=options)
    with VideoFile(path) as file:
        assert [number_of(file.read([number])[0]) for number in range(40)] == list(range(40))
        assert not file.index.decoded


def test_packets_that_give_no_frame_are_not_counted(tmp_path, caplog):
    """MPEG-4 writes a packet that is "not coded" where nothing moved; the decoder shows nothing for it."""
    whole = encode(tmp_path / "whole.mkv", num_frames=60, codec="mpeg4")
    # start code; P (01), no seconds (0), marker, 5 bits of time, marker, not coded (0), stuffing
    not_coded = b"\x00\x00\x01\xb6" + int("01010000110" + "01111", 2).to_bytes(2, "big")
    path = tmp_path / "dropped.mkv"
    with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
        stream = reader.streams.video[0]
        copy, packets = writer.add_stream_from_template(stream), []
        for number, packet in enumerate(packet for packet in reader.demux(stream) if packet.size):
            packets += [packet, av.Packet(not_coded)] if number % 12 == 7 else [packet]
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = 40 * number
            packet.stream, packet.time_base = copy, Fraction(1, 1000)
            writer.mux(packet)
    assert len(packets) == 65 and len(shown(path)[0]) == 60
    with caplog.at_level("INFO"):
        for start in (45, 30, 59, 7):
            frames, _ = read_video(path, start=start, num_frames=1)
            assert number_of(frames[0]) == start
    with VideoFile(path) as file:
        assert len(file.times) == 60
    assert "some packets may be empty" in caplog.text


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("lengths", [(3, 2), (6, 5)])
def test_short_joined_parts_without_a_keyframe_are_not_mixed(tmp_path, codec, lengths):
    """Their times fall by a frame or two, as decoding times that FFmpeg guesses may."""
    parts = [Part(codec, length, 0, gop, False, 0, 1).write(tmp_path / f"{gop}.mkv")
             for gop, length in zip((1, 9), lengths, strict=True)]
    (path := tmp_path / "joined.mkv").write_bytes(b"".join(part.read_bytes() for part in parts))
    expected, is_sound = shown(path)
    with VideoFile(path) as file:
        assert is_sound and len(file.times) == len(expected)
        assert all(torch.equal(file.read([number])[0], frame) for number, frame in enumerate(expected))


def test_headers_of_a_joined_part_may_come_before_the_group(tmp_path):
    """Keyframes of an open group have no headers of their own, and FFmpeg knows those of the first part only."""
    parts = [Part("libx264", 20, 0, 1, False, 0, 0), Part("libx264", 20, 1, 2, True, 0, 0)]
    (path := tmp_path / "joined.ts").write_bytes(b"".join(
        part.write(tmp_path / f"{number}.ts").read_bytes() for number, part in enumerate(parts)))
    expected, is_sound = shown(path)
    with VideoFile(path) as file:
        assert is_sound and len(file.times) == len(expected) == 40
        assert all(torch.equal(file.read([number])[0], frame) for number, frame in enumerate(expected))


@pytest.mark.parametrize("rate", [1200, 5000])
def test_frames_that_share_a_millisecond_are_found(tmp_path, rate):
    """Matroska stores milliseconds, and FFmpeg's seek then leaves out packets."""
    path = encode(tmp_path / "a.mkv", num_frames=60, gop=7, b_frames=3, fps=rate)
    for number in range(60):
        video_file.INDEXES.clear()
        assert number_of(read_video(path, start=number, num_frames=1)[0][0]) == number


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
@pytest.mark.parametrize(("suffix", "b_frames"), [("mpg", 2), ("mpg", 0), ("vob", 2)])
def test_a_program_stream_that_is_cut_at_the_front_has_the_frames_of_a_sequential_decode(tmp_path, suffix, b_frames,
                                                                                         share):
    content = encode(tmp_path / f"whole.{suffix}", num_frames=20, codec="mpeg2video", b_frames=b_frames,
                     gop=5).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[int(share * len(content)):])
    expected = [number_of(frame) for frame in shown(path)[0]]
    with open_media(path) as media:
        assert media.num_frames == len(expected)
    clips = VideoClips(path=str(path), num_frames=len(expected) - 3, size=64, train=False, clips_per_video=3)
    assert [numbers_of(clips[number]["pixels"])[0] for number in (0, 2)] == [expected[0], expected[3]]


def test_a_packet_of_an_unknown_stream_makes_the_file_unreadable(tmp_path):
    path = remux(encode(tmp_path / "a.mp4", num_frames=50, gop=12, b_frames=3), tmp_path / "a.ts")
    content = bytearray(path.read_bytes())
    failures = 0
    for place in range(188 * 40 + 2, len(content), 188):  # the low byte of a packet's stream number
        damaged = content.copy()
        damaged[place] = 203
        path.write_bytes(damaged)
        video_file.INDEXES.clear()
        with suppress(DataError), open_media(path) as media:
            list(media.chunks(64))
            continue
        failures += 1
    assert failures


def test_the_cover_of_a_sound_file_is_no_video(tmp_path):
    cover, path = io.BytesIO(), tmp_path / "a.mp4"
    Image.new("RGB", (16, 16)).save(cover, "png")
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        picture = container.add_stream("png", rate=1)
        picture.width = picture.height = 16
        picture.pix_fmt, picture.disposition = "rgb24", Disposition.attached_pic
        container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(DataError, match="needed a video stream, got none"):
        open_media(path)

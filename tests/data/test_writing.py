"""Written videos, checked by decoders of their own: colours and their tags, rates and lengths."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from toolkit.data import VideoWriter, read_image, read_video, sample_clips, write_image, write_video
from toolkit.data.reading.writing import MediaWriter, frame_rate

PINK = (255, 102, 204)
KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114)}  # by matrix, ITU-T H.273


def first_frame(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def rgb_by_formula(frame):
    """(H, W, 3) float of a yuv420p frame of limited range, with the matrix of its tag."""
    planes = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, :plane.width].astype(float)
              for plane in frame.planes]
    y, cb, cr = planes[0], *(plane.repeat(2, 0).repeat(2, 1) for plane in planes[1:])
    kr, kb = KR_KB[int(frame.colorspace)]
    y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return 255 * np.clip(np.stack([red, green, blue], -1), 0, 1)


def tags(frame):
    return int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc), int(frame.color_range)


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (720, 1280)])
def test_colours_are_those_of_the_tags_in_the_stream_and_in_the_file(tmp_path, size):
    pixels = (torch.tensor(PINK) / 127.5 - 1).view(3, 1, 1, 1).expand(3, 2, *size)
    write_video(tmp_path / "x.mp4", pixels, fps=25)
    frame = first_frame(tmp_path / "x.mp4")
    assert tags(frame) == (1, 1, 1, 1)  # matrix, primaries, transfer BT.709, limited range
    assert np.abs(rgb_by_formula(frame) - PINK).max() <= 2
    assert np.abs(read_video(tmp_path / "x.mp4")[0].numpy().astype(int) - PINK).max() <= 3
    # the file's own tag: matrix, primaries and transfer 1 of H.273, no full range
    assert b"colrnclx" + bytes([0, 1, 0, 1, 0, 1, 0]) in (tmp_path / "x.mp4").read_bytes()
    with av.open(str(tmp_path / "x.mp4")) as container:
        decoder = av.CodecContext.create("h264", "r")  # of the stream alone
        decoder.extradata = container.streams.video[0].codec_context.extradata
        packets = list(container.demux(video=0))
    assert tags(next(frame for packet in packets for frame in decoder.decode(packet))) == (1, 1, 1, 1)


def test_a_written_clip_is_near_its_pixels(tmp_path):
    frames, _ = read_video(sample_clips("eval")[0], num_frames=5)
    write_video(tmp_path / "x.mp4", (frames.float() / 127.5 - 1).permute(3, 0, 1, 2), fps=25)
    shown = rgb_by_formula(first_frame(tmp_path / "x.mp4"))
    error = shown - frames[0].numpy()
    assert np.abs(error).mean() < 1.25 and abs(error.mean()) < 0.25
    assert np.abs(read_video(tmp_path / "x.mp4")[0].numpy().astype(int) - frames.numpy()).mean() < 2.25


RATES = {0.00001: Fraction(1, 100_000), 0.00025: Fraction(1, 4000), 0.000417: Fraction(417, 1_000_000),
         25 / 60_000: Fraction(1, 2400), 0.0007: Fraction(7, 10_000), 0.9999999: Fraction(9_999_999, 10_000_000),
         7 / 3: Fraction(7, 3), 23.976: Fraction(24_000, 1001), 29.97: Fraction(30_000, 1001),
         30_000 / 1001 / 7: Fraction(30_000, 7007), 59.94: Fraction(60_000, 1001), 25: Fraction(25), 240: Fraction(240),
         5000: Fraction(5000), 12_345.5: Fraction(24_691, 2), 90_000: Fraction(90_000),
         1_000_000: Fraction(1_000_000)}


@pytest.mark.parametrize("fps", RATES)
def test_rates_are_kept_exactly_and_every_frame_is_decoded(tmp_path, fps):
    for count in (1, 2, 3, 4, 5, 6, 9, 17, 33):
        write_video(tmp_path / "x.mp4", torch.zeros(3, count, 16, 16), fps=fps)
        with av.open(str(tmp_path / "x.mp4")) as container:
            stream = container.streams.video[0]
            times = [frame.pts * frame.time_base for frame in container.decode(stream)]
            assert times == [number / RATES[fps] for number in range(count)]
            assert (stream.average_rate, stream.duration * stream.time_base) == (RATES[fps], count / RATES[fps])


def test_any_other_rate_is_kept_nearly():
    generator = np.random.default_rng(0)
    for fps in 10 ** generator.uniform(-5, 6, 1000):
        assert float(frame_rate(fps, path="x.mp4")) == pytest.approx(fps, rel=1.1e-6)


@pytest.mark.parametrize("fps", [0, -25, float("nan"), float("inf"), 0.9e-5, 1.1e6, None])
def test_rates_that_an_mp4_cannot_hold_are_refused_before_a_file_is_written(tmp_path, fps):
    with pytest.raises(ValueError, match=r"x\.mp4: an mp4 takes from 0.00001 to 1,000,000 frames per second, got"):
        VideoWriter(tmp_path / "x.mp4", fps=fps)
    with pytest.raises(ValueError, match=r"x\.mp4: an mp4 takes"), MediaWriter(tmp_path / "x", fps=fps) as media:
        media.write(torch.zeros(3, 2, 16, 16))
    assert list(tmp_path.iterdir()) == []


def test_an_image_needs_no_rate(tmp_path):
    with MediaWriter(tmp_path / "x", fps=None) as media:
        media.write(torch.zeros(3, 1, 5, 7))
    assert read_image(tmp_path / "x.png").shape == (3, 1, 5, 7)


@pytest.mark.parametrize(("pixels", "words"), [
    (torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8), "takes float pixels in .*got torch.uint8; x / 127.5"),
    (torch.linspace(0, 255, 768).reshape(3, 1, 16, 16), "got 0 to 255, 127.5 on average; x / 127.5"),
    (np.zeros((3, 1, 16, 16), np.float32), "got numpy.ndarray of float32; make a torch.Tensor")])
def test_pixels_of_another_type_or_range_are_not_written(tmp_path, pixels, words):
    writers = [lambda: write_image(tmp_path / "x.png", pixels), lambda: write_video(tmp_path / "x.mp4", pixels, fps=25)]
    for write in writers:
        with pytest.raises(ValueError, match=words):
            write()
    with pytest.raises(ValueError, match=words), MediaWriter(tmp_path / "x", fps=25) as media:
        media.write(pixels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [np.int64(25), np.float32(25), torch.tensor(25.0), Fraction(25)])
def test_rates_may_be_numbers_of_numpy_and_torch(fps):
    assert frame_rate(fps, path="x.mp4") == 25


def test_more_pixels_than_the_encoder_takes_are_refused(tmp_path):
    with pytest.raises(OSError, match=r"x\.mp4: an mp4 takes at most 16,384 pixels a side, got 2 x 16386"):
        write_video(tmp_path / "x.mp4", torch.zeros(3, 2, 2, 16386), fps=25)

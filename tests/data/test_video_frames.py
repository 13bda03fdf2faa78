"""Decoded frames as RGB: orientation, transparency, matrices and ranges of the colours."""

import io
import logging
from fractions import Fraction

import av
import numpy as np
import pytest
import unusual_files as make
from av.bitstream import BitStreamFilterContext
from PIL import Image, ImageOps

from toolkit.contracts import DataError
from toolkit.data import open_media, read_video
from toolkit.data.reading.frames import RGBFrames, log_aspect, rgb

ORIENTATIONS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),  # a, b, c, d: the four turns
                (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]  # and their mirrors


def write(path, *, codec, pix_fmt, matrix=None, picture=make.QUARTERS):
    with av.open(str(path), "w") as container:
        # VP8 takes no opacity with such frames
        stream = container.add_stream(codec, rate=25, options={"auto-alt-ref": "0"} if "vpx" in codec else {})
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pix_fmt
        if matrix is not None:
            a, b, c, d = (round(value * 2**16) for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 2**30])
        for _ in range(6):  # FFmpeg finds no stream in transport streams of a few packets
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def shown(path):
    return rgb(decoded(path)[0]).numpy()


def by_formula(picture, a, b, c, d):
    """ISO 14496-12: column x and row y are shown at column a x + c y and row b x + d y, moved into the picture."""
    y, x = np.indices(picture.shape[:2])
    columns, rows = a * x + c * y, b * x + d * y
    columns, rows = columns - columns.min(), rows - rows.min()
    upright = np.zeros((rows.max() + 1, columns.max() + 1, 3), np.uint8)
    upright[rows, columns] = picture
    return upright


def near(pixels, expected, tolerance=3):
    """Whether they differ by so many levels on average; another orientation of the quarters differs by 80 or more."""
    return pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).mean() <= tolerance


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt"), [
    ("mp4", "libx264", "yuv420p"), ("mov", "png", "rgb24"), ("mkv", "ffv1", "bgr0"), ("webm", "libvpx-vp9", "yuv420p"),
    ("3gp", "mpeg4", "yuv420p")])
def test_all_eight_orientations_of_a_container_are_shown_as_players_do(tmp_path, suffix, codec, pix_fmt):
    for matrix in ORIENTATIONS:
        path = write(tmp_path / f"x.{suffix}", codec=codec, pix_fmt=pix_fmt, matrix=matrix)
        assert near(shown(path), by_formula(make.QUARTERS, *matrix)), matrix


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libvpx-vp9"), ("mkv", "libvpx-vp9"), ("webm", "libvpx")])
def test_all_eight_orientations_of_a_transparent_video_are_shown_as_those_of_an_opaque_one(tmp_path, suffix, codec):
    for matrix in ORIENTATIONS:
        path = write(tmp_path / f"x.{suffix}", codec=codec, pix_fmt="yuva420p", matrix=matrix)
        with open_media(path) as media:
            read = [read_video(path)[0][0], ((next(media.chunks(1))[:, 0] + 1) * 127.5).permute(1, 2, 0)]
        for frame in read:
            assert near(frame.numpy(), by_formula(make.QUARTERS, *matrix), tolerance=8), matrix


def test_a_mirrored_recording_has_its_left_on_the_right(tmp_path):
    path = write(tmp_path / "selfie.mov", codec="png", pix_fmt="rgb24", matrix=(-1, 0, 0, 1))
    corners = shown(path)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [list(colour) for colour in (make.GREEN, make.RED, make.WHITE, make.BLUE)]


def remux(source, target, *, bitstream_filter):
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        change = BitStreamFilterContext(bitstream_filter, stream, copy)
        for packet in [*(packet for packet in old.demux(stream) if packet.size), None]:
            for changed in change.filter(packet):
                changed.stream = copy
                new.mux(changed)
    return target


@pytest.mark.parametrize("suffix", ["ts", "mp4", "avi"])
@pytest.mark.parametrize(("flip", "step"), [("", (1, 1)), (":flip=horizontal", (1, -1)), (":flip=vertical", (-1, 1))])
def test_the_orientation_in_an_h264_stream_is_applied(tmp_path, suffix, flip, step):
    plain = write(tmp_path / "plain.mp4", codec="libx264", pix_fmt="yuv420p")
    for quarters in range(4):
        told = f"h264_metadata=display_orientation=insert:rotate={90 * quarters}{flip}"
        path = remux(plain, tmp_path / f"told.{suffix}", bitstream_filter=told)
        # ITU-T H.264, D.2.27: flipped first, then turned anticlockwise
        assert near(shown(path), np.rot90(make.QUARTERS[::step[0], ::step[1]], quarters)), told


def test_the_orientation_of_the_container_comes_before_the_streams(tmp_path):
    mirrored = write(tmp_path / "mirrored.mp4", codec="libx264", pix_fmt="yuv420p", matrix=(-1, 0, 0, 1))
    both = remux(mirrored, tmp_path / "both.mp4", bitstream_filter="h264_metadata=display_orientation=insert:rotate=90")
    assert near(shown(both), make.QUARTERS[:, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_of_motion_jpeg_is_applied(tmp_path, orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(make.QUARTERS).save(file, "jpeg", exif=exif, quality=95, subsampling=0)
    (tmp_path / "x.mjpeg").write_bytes(file.getvalue() * 2)
    assert near(shown(tmp_path / "x.mjpeg"), np.array(ImageOps.exif_transpose(Image.open(file))))


def test_scaled_and_slightly_turned_matrices_are_the_nearest_orientation(tmp_path):
    for matrix, nearest in {(2, 0, 0, -2): (1, 0, 0, -1), (0, 1.5, -1.5, 0): (0, 1, -1, 0),
                            (-1, 0.004, 0.004, 1): (-1, 0, 0, 1)}.items():
        path = write(tmp_path / "x.mov", codec="png", pix_fmt="rgb24", matrix=matrix)
        assert near(shown(path), by_formula(make.QUARTERS, *nearest), tolerance=0), matrix


def test_other_matrices_are_logged_once_and_not_applied(tmp_path, caplog):
    for matrix in ((0.6, 0.8, -0.8, 0.6), (0, 0, 0, 0), (1, 0, 0, 0)):
        caplog.clear()
        path = write(tmp_path / "x.mov", codec="png", pix_fmt="rgb24", matrix=matrix)
        for _ in range(2):
            assert near(shown(path), make.QUARTERS, tolerance=0)
        assert [record.levelno for record in caplog.records] == [logging.WARNING], matrix
        assert "needed a display matrix that turns by quarters or mirrors" in caplog.text


def test_one_size_means_the_upright_one(tmp_path):
    lying, turned, transposed = (
        decoded(write(tmp_path / f"{number}.mov", codec="png", pix_fmt="rgb24", matrix=ORIENTATIONS[number]))
        for number in (0, 1, 6))
    frames = RGBFrames(turned + transposed, path="x.mov")
    assert [tuple(frame.shape) for frame in frames] == [(64, 32, 3)] * 12
    with pytest.raises(DataError, match=r"x\.mov: needed frames of one size, got \[\(32, 64\), \(64, 32\)\]"):
        RGBFrames(lying + turned, path="x.mov")


def test_pixels_that_are_not_square_are_logged_once_for_each_ratio(caplog):
    for aspect in (None, Fraction(1), Fraction(59, 54), Fraction(59, 54), Fraction(118, 81)):
        log_aspect(aspect, path="dv.avi")
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "dv.avi: its pixels are not square (59 : 54)", "dv.avi: its pixels are not square (118 : 81)"]


COLOUR, OPACITIES = (253, 60, 30), (0, 128, 255)
LIMITED, FULL = 1, 2


def encode_transparent(path, *, codec, pix_fmt, color_range, options):
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = COLOUR, np.repeat(OPACITIES, 16)[:, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pix_fmt
        stream.codec_context.color_range = color_range
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt, dst_color_range=color_range)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode_first(path, decoder=None):
    with av.open(str(path)) as container:
        if decoder is None:
            return next(container.decode(video=0))
        context = av.CodecContext.create(decoder, "r")
        return next(frame for packet in container.demux(video=0) for frame in context.decode(packet))


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt", "color_range", "options"), [
    ("mov", "prores_ks", "yuva444p10le", LIMITED, {"profile": "4444", "alpha_bits": "16"}),
    ("mov", "qtrle", "argb", FULL, {}), ("mov", "png", "rgba", FULL, {}), ("mov", "png", "rgba64be", FULL, {}),
    ("mov", "rawvideo", "rgba", FULL, {}), ("avi", "huffyuv", "bgra", FULL, {}),
    ("webm", "libvpx-vp9", "yuva420p", LIMITED, {"lossless": "1"}),
    *(("mkv", "ffv1", f"yuva{layout}", color_range, {}) for layout in ("420p", "422p", "444p", "420p10le", "444p16le")
      for color_range in (LIMITED, FULL)),
    *(("mkv", "ffv1", layout, FULL, {}) for layout in ("bgra", "gbrap10le", "gbrap12le", "gbrap16le"))])
def test_transparency_shows_white_in_every_pixel_format(tmp_path, suffix, codec, pix_fmt, color_range, options):
    path = tmp_path / f"x.{suffix}"
    encode_transparent(path, codec=codec, pix_fmt=pix_fmt, color_range=color_range, options=options)
    pixels = rgb(decode_first(path, "libvpx-vp9" if suffix == "webm" else None)).numpy().astype(float)
    for band, opacity in zip(np.split(pixels, 3), OPACITIES, strict=True):
        expected = 255 - (255 - np.array(COLOUR)) * (opacity / 255)
        assert np.abs(band - expected).max() <= (0 if opacity == 0 else 3 if "yuv" in pix_fmt else 1.5)


@pytest.mark.parametrize("pix_fmt", ["ya8", "ya16be"])
def test_transparent_grey_shows_white(tmp_path, pix_fmt):
    encode_transparent(tmp_path / "x.mov", codec="png", pix_fmt=pix_fmt, color_range=FULL, options={})
    grey = np.dot(COLOUR, (0.299, 0.587, 0.114))
    for band, opacity in zip(np.split(shown(tmp_path / "x.mov").astype(float), 3), OPACITIES, strict=True):
        assert np.abs(band - (255 - (255 - grey) * (opacity / 255))).max() <= 1


def test_a_transparent_palette_shows_white(tmp_path):
    expected = make.palette(tmp_path / "x.png", transparency=3)[0]
    frame = decode_first(tmp_path / "x.png")
    assert frame.format.name == "pal8" and np.array_equal(rgb(frame).numpy(), expected)


KR_KB = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114),
         7: (0.212, 0.087), 9: (0.2627, 0.0593)}  # ITU-T H.273, table 4; 2 is unspecified
YUV = 120, 90, 170


def flat(*, matrix, color_range, pix_fmt="yuv444p"):
    """A frame of one colour, YUV in 8 bits."""
    frame = av.VideoFrame(32, 32, pix_fmt)
    deep = frame.format.components[0].bits - 8
    for plane, value in zip(frame.planes, YUV, strict=True):
        count = plane.buffer_size // (2 if deep else 1)
        plane.update(np.full(count, value << deep, np.uint16 if deep else np.uint8).tobytes())
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", KR_KB)
def test_each_matrix_and_range_has_its_own_colours(matrix, color_range, pix_fmt):
    kr, kb = KR_KB[matrix]
    offset, luma, chroma = (16, 219, 224) if color_range == LIMITED else (0, 255, 255)
    y, cb, cr = (YUV[0] - offset) / luma, (YUV[1] - 128) / chroma, (YUV[2] - 128) / chroma
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    expected = 255 * np.array([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue])
    pixels = rgb(flat(matrix=matrix, color_range=color_range, pix_fmt=pix_fmt)).numpy()
    assert np.abs(pixels - expected).max() <= (1 if pix_fmt == "yuv444p" else 3)


@pytest.mark.parametrize("matrix", [8, 10, 14], ids=["YCgCo", "BT.2020 constant luminance", "ICtCp"])
def test_matrices_that_cannot_be_converted_are_refused(matrix):
    frames = RGBFrames([flat(matrix=matrix, color_range=LIMITED)], path="x.mkv")
    message = rf"x\.mkv: needed colours that FFmpeg can convert, got yuv444p with the matrix number {matrix} of"
    with pytest.raises(DataError, match=message) as caught:
        frames[0]
    assert caught.value.path == "x.mkv"

"""Animated images as videos, checked against Pillow's own composition."""

import io
import struct

import numpy as np
import pytest
import torch
from numbered import numbered_frame, numbers_of
from PIL import Image, features
from tars import noise, write_shard

from toolkit.contracts import DataError
from toolkit.data import Images, ImageShards, iter_frames, open_media, read_image, read_video
from toolkit.data.reading.animation import Animation
from toolkit.data.reading.media import open_video

KINDS = ["gif", "webp", "png", *(["avif"] if features.check("avif") else [])]
DURATIONS = [40, 200, 120, 40, 100]
every_kind = pytest.mark.parametrize("kind", KINDS)


def animation(kind: str, frames: list[np.ndarray] | None = None, **options) -> bytes:
    """All bytes of an animated image, by default of numbered frames."""
    first, *others = map(Image.fromarray, frames or [numbered_frame(number) for number in range(5)])
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=others, **{"duration": DURATIONS} | options)
    return file.getvalue()


@every_kind
@pytest.mark.parametrize("name", ["x.{kind}", "x.mp4", "x"])
def test_every_reader_takes_an_animation_as_a_video(tmp_path, kind, name):
    path = tmp_path / name.format(kind=kind)
    path.write_bytes(animation(kind))
    with open_media(path) as media:
        pixels = torch.cat(list(media.chunks(2)), dim=1)
        assert (media.num_frames, media.fps) == (5, 10.0)  # 5 frames in 0.5 seconds
    assert numbers_of(pixels) == list(range(5))
    frames, fps = read_video(path, start=1, num_frames=2, frame_stride=2)
    assert fps == 5.0 and numbers_of(frames.permute(3, 0, 1, 2) / 127.5 - 1) == [1, 3]
    assert len(list(iter_frames(path, frame_stride=2))) == 3
    assert read_image(path).equal(pixels[:, :1])
    with pytest.raises(DataError, match="needed 3 frames from frame 3 on with stride 1, got 2"):
        read_video(path, start=3, num_frames=3)


@every_kind
def test_times_are_those_of_the_frames(kind):
    with open_video(animation(kind), name="x.bin") as video:
        assert isinstance(video, Animation) and video.path == "x.bin" and video.times.dtype == np.float64
        np.testing.assert_allclose(video.times, [0.0, 0.04, 0.24, 0.36, 0.4], atol=1e-9)
        assert video.fps == pytest.approx(10.0)


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_a_frame_without_a_duration_lasts_a_tenth_of_a_second(kind):
    with Animation(animation(kind, duration=[0, 300, 0, 100, 100])) as video:
        np.testing.assert_allclose(video.times, [0.0, 0.1, 0.4, 0.5, 0.6])
        assert video.fps == pytest.approx(5 / 0.7)


@every_kind
def test_chosen_frames_are_pillows_and_may_repeat(kind):
    content = animation(kind, [noise(number, height=24, width=40) for number in range(5)])
    whole = []
    with Image.open(io.BytesIO(content)) as image:
        for number in range(5):
            image.seek(number)
            whole.append(torch.from_numpy(np.array(image.convert("RGB"))))
    with Animation(content) as video:
        assert all(map(torch.equal, video.read([0, 2, 2, 4]), [whole[0], whole[2], whole[2], whole[4]]))
        assert all(map(torch.equal, video.read([1]), whole[1:2]))  # before those that were read
        assert all(map(torch.equal, video.rgb_frames(start=1, frame_stride=3), whole[1::3]))
        assert list(video.rgb_frames(start=5)) == []
        for numbers in ([2, 1], [-1], [5]):
            with pytest.raises(ValueError, match="ascending numbers below 5"):
                video.read(numbers)
        with pytest.raises(ValueError, match="start >= 0 and frame_stride >= 1, got 0 and 0"):
            video.rgb_frames(frame_stride=0)


@pytest.mark.parametrize(("kind", "options"), [("webp", {"lossless": True, "exact": True}), ("png", {})])
def test_transparent_frames_are_on_white(kind, options):
    frames = [np.concatenate([noise(number), noise(number + 9)[..., :1]], -1) for number in range(3)]
    content = animation(kind, frames, duration=100, disposal=1, blend=0, **options) if kind == "png" else \
        animation(kind, frames, duration=100, **options)
    with Animation(content) as video:
        for frame, seen in zip(frames, video.rgb_frames(), strict=True):
            colour, opacity = frame[..., :3].astype(float), frame[..., 3:] / 255.0
            if kind == "png" or frame is frames[0]:
                assert np.abs(seen.numpy() - (255 - (255 - colour) * opacity)).max() <= 1
        assert video.num_decoded == 6  # once for the times, once for the frames


def test_parts_of_frames_are_composed(tmp_path):
    base = Image.new("P", (16, 12))
    base.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    second = base.copy()
    second.paste(1, (4, 4, 8, 8))
    third = base.copy()
    third.paste(2, (0, 0, 2, 2))
    base.save(tmp_path / "x.gif", save_all=True, append_images=[second, third], duration=50, disposal=[1, 1, 1])
    expected = [np.array(image.convert("RGB")) for image in (base, second, third)]
    frames, fps = read_video(tmp_path / "x.gif")
    assert fps == 20.0 and np.array_equal(frames.numpy(), np.stack(expected))


def test_the_still_before_an_apng_is_no_frame_of_it():
    content = animation("png", default_image=True, duration=50)
    with Animation(content) as video:
        seen = torch.stack(list(video.rgb_frames())).permute(3, 0, 1, 2) / 127.5 - 1
        assert numbers_of(seen) == [1, 2, 3, 4] and video.fps == 20.0
    assert numbers_of(read_image(content)) == [0]


def test_the_orientation_of_an_animation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    frames = [noise(number, height=8, width=12) for number in range(2)]
    content = animation("webp", frames, duration=100, lossless=True, exif=exif)
    with Animation(content) as video:
        assert np.array_equal(torch.stack(list(video.rgb_frames())).numpy(), [np.rot90(frame, -1) for frame in frames])


@every_kind
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_torn_animation_is_unreadable(kind, kept):
    content = animation(kind, [noise(number, height=32, width=32) for number in range(5)])
    for read in (open_media, open_video):
        with pytest.raises(DataError, match=rf"x\.{kind}: needed an image that Pillow can read, got"):
            read(content[:int(kept * len(content))], name=f"x.{kind}")


def test_a_gif_that_is_cut_anywhere_is_read_or_unreadable(tmp_path):
    content = animation("gif", [noise(number, height=8, width=8) for number in range(5)])
    found = set()
    for length in range(1, len(content)):
        try:
            open_media(content[:length], name="x.gif").__exit__()
            found.add("read")
        except DataError:
            found.add("unreadable")
    assert found == {"read", "unreadable"}


def test_a_damaged_frame_makes_the_file_unreadable():
    content = bytearray(animation("png", [noise(number, height=32, width=32) for number in range(5)]))
    last = content.rindex(b"fdAT")
    length = struct.unpack(">I", content[last - 4:last])[0]
    content[last + 8:last + 4 + length] = bytes(length - 4)
    with pytest.raises(DataError, match=r"x\.png: needed an image that Pillow can read, got"):
        open_media(bytes(content), name="x.png")


@pytest.mark.parametrize("held", ["files", "shard"])
def test_a_data_set_of_images_says_once_that_it_takes_first_frames(tmp_path, caplog, held):
    still = io.BytesIO()
    Image.fromarray(noise(0)).save(still, "png")
    contents = {"0": {"png": still.getvalue()}, "1": {"gif": animation("gif")}, "2": {"webp": animation("webp")}}
    if held == "files":
        for number, content in contents.items():
            (suffix, data), = content.items()
            (tmp_path / f"{number}.{suffix}").write_bytes(data)
        images = Images(path=tmp_path, size=8, train=False)
        samples = [images[index % 3] for index in range(6)]
    else:
        shards = ImageShards(path=write_shard(tmp_path / "x.tar", contents), size=8, train=False)
        samples = [sample for _ in range(2) for sample in shards]
    assert [sample["pixels"].shape[1] for sample in samples] == [1] * 6
    line, = caplog.messages
    assert "1.gif: only the first of 5 frames is used" in line

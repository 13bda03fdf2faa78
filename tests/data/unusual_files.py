"""Files of real data sets: unusual ones with their expected pixels, and unreadable ones.

A writer takes the path, writes the file and returns the expected frames (T, H, W, 3), None where there are none.
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from data.numbered import encode, numbered_frame, write_frames
from data.tars import noise
from PIL import Image

from toolkit.data import write_video

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


# (32, 64, 3): four flat colours, which survive any codec and tell each turn from the others
QUARTERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(16, 0).repeat(32, 1)


def image(path: Path, pixels: np.ndarray, **options) -> np.ndarray:
    Image.fromarray(pixels).save(path, **options)
    return pixels[None]


def video(path: Path, frames: np.ndarray, **options) -> np.ndarray:
    write_frames(path, frames, **options)
    return frames


image_33x47 = partial(image, pixels=noise(1, height=33, width=47))
jpeg_by_another_name = partial(image, pixels=QUARTERS, format="jpeg", quality=95, subsampling=0)
video_33x47 = partial(video, frames=np.stack([noise(number, height=33, width=47) for number in range(5)]),
                      codec="ffv1", pix_fmt="bgr0")
half_chroma_33x47 = partial(video, codec="libvpx-vp9", frames=np.array(
    [RED, GREEN, BLUE, WHITE, (99, 9, 199)], np.uint8)[:, None, None].repeat(33, 1).repeat(47, 2))


def grey(path: Path) -> np.ndarray:
    Image.fromarray(pixels := noise(2)[..., 0]).save(path)
    return np.stack([pixels] * 3, -1)[None]


def grey_16_bit(path: Path) -> np.ndarray:
    wide = np.random.default_rng(3).integers(0, 2**16, (12, 16), dtype=np.uint16)
    Image.fromarray(wide).save(path)
    return np.stack([np.round(wide / 257)] * 3, -1)[None]


def rgb_16_bit(path: Path) -> np.ndarray:
    wide = np.random.default_rng(4).integers(0, 2**16, (12, 16, 3), dtype=np.uint16)
    write_frames(path, [wide], codec="png", pix_fmt="rgb48be", layout="rgb48be")
    return np.round(wide / 257)[None]


def transparent_grey_16_bit(path: Path) -> np.ndarray:
    wide = np.random.default_rng(3).integers(1000, 1004, (12, 16), dtype=np.uint16)  # 1001 alone lets white through
    Image.fromarray(wide).save(path, transparency=1001)
    return np.stack([np.where(wide == 1001, 255, np.round(wide / 257))] * 3, -1)[None]


def transparent(path: Path, *, channels: int = 3) -> np.ndarray:
    colour, opacity = noise(5)[..., :channels], noise(6)[..., :1]
    Image.fromarray(np.concatenate([colour, opacity], -1)).save(path)
    return np.repeat(255 - (255 - colour.astype(float)) * (opacity / 255.0), 3 // channels, -1)[None]  # over white


def palette(path: Path, *, transparency: int | None = 3) -> np.ndarray:
    colours, places = np.array([RED, GREEN, BLUE, (9, 99, 199)], np.uint8), noise(7)[..., 0] % 4
    image = Image.fromarray(places).convert("P")
    image.putpalette(colours.tobytes())
    image.save(path, transparency=transparency)
    if transparency is not None:
        colours[transparency] = 255  # it lets white through
    return colours[places][None]


def cmyk(path: Path) -> np.ndarray:
    inks = np.repeat(np.array([[(0, 255, 255, 0), (255, 0, 0, 128), (0, 0, 0, 0)]], np.uint8), 16, 0).repeat(16, 1)
    Image.fromarray(inks, mode="CMYK").save(path, quality=95)
    return (255 * (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255))[None]


def turned_by_exif(path: Path, orientation: int) -> np.ndarray:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored, = image(path, QUARTERS, exif=exif, quality=95, subsampling=0)
    shown = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1),
             6: np.rot90(stored, -1), 7: stored[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(stored)}
    return shown[orientation][None]


def grey_video(path: Path) -> np.ndarray:
    frames = np.stack([noise(number)[..., 0] for number in range(5)])
    write_frames(path, frames, codec="ffv1", pix_fmt="gray", layout="gray")
    return np.stack([frames] * 3, -1)


def transparent_video(path: Path, *, codec: str, pix_fmt: str) -> np.ndarray:
    frames = np.stack([np.concatenate([noise(number), noise(number + 9)[..., :1]], -1) for number in range(5)])
    frames[:, :6, :, 3] = 0  # hidden colours
    write_frames(path, frames, codec=codec, pix_fmt=pix_fmt, layout="rgba")
    return 255 - (255 - frames[..., :3].astype(float)) * (frames[..., 3:] / 255.0)  # over white


def turned_by_matrix(path: Path, quarter_turns: int) -> np.ndarray:
    """By so many quarter turns, clockwise, to be done by the player."""
    write_video(path, torch.from_numpy(QUARTERS / 127.5 - 1).permute(2, 0, 1)[:, None].expand(-1, 5, -1, -1), fps=25)
    content = bytearray(path.read_bytes())
    one = 1 << 16
    at = content.index(struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns]
    content[at:at + 36] = struct.pack(">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return np.stack([np.rot90(QUARTERS, -quarter_turns)] * 5)


def variable_rate(path: Path) -> np.ndarray:
    encode(path, num_frames=5, ticks=[0, 400, 420, 900, 1000], b_frames=2)
    return np.stack([numbered_frame(number) for number in range(5)])


def truncated(path: Path) -> None:
    """A JPEG or PNG of noise without its end."""
    image(path, noise(8, height=64, width=64))
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 3])


def truncated_video(path: Path) -> None:
    """Without its index, which is at the end."""
    encode(path, num_frames=40)
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 3])


def torn_stream(path: Path) -> None:
    """A recording that ended in the middle of its fifth frame."""
    write_frames(path, [noise(number, height=128, width=128) for number in range(6)], codec="mpeg2video")
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[:(starts[4] + starts[5]) // 2])


strip = partial(image, pixels=np.zeros((20_000, 1, 3), np.uint8))
strip_of_video = partial(video, frames=np.zeros((5, 4000, 2, 3), np.uint8), codec="ffv1", pix_fmt="bgr0")
image_by_another_name = partial(image, pixels=noise(9), format="png")


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("a page that says the file is gone\n" * 99)


def video_by_another_name(path: Path) -> None:
    encode(path.with_suffix(".mp4"), num_frames=5).rename(path)


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()

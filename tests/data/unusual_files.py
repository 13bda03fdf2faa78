"""Files of real data sets: unusual ones with their expected pixels, and unreadable ones.

A writer takes the path, writes the file and returns the expected frames (T, H, W, 3), None where there are none.
"""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from data.numbered import encode, numbered_frame
from data.tars import noise
from PIL import Image

from toolkit.data import write_video

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(height: int = 32, width: int = 64) -> np.ndarray:
    """(H, W, 3) uint8 of four flat colours, which survive any codec and tell each turn from the others."""
    rows = [np.repeat(np.array([row], np.uint8), height // 2, 0) for row in ([RED, GREEN], [BLUE, WHITE])]
    return np.concatenate(rows).repeat(width // 2, 1)


def image_33x47(path: Path) -> np.ndarray:
    Image.fromarray(pixels := noise(1, height=33, width=47)).save(path)
    return pixels[None]


def grey(path: Path) -> np.ndarray:
    Image.fromarray(pixels := noise(2)[..., 0]).save(path)
    return np.stack([pixels] * 3, -1)[None]


def grey_16_bit(path: Path) -> np.ndarray:
    wide = np.random.default_rng(3).integers(0, 2**16, (12, 16), dtype=np.uint16)
    Image.fromarray(wide).save(path)
    return np.stack([np.round(wide / 257)] * 3, -1)[None]


def write_wide_png(path: Path, wide: np.ndarray, *, colour_type: int,
                   more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """16 bits per value, which Pillow does not write."""
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in wide)  # each begins with its filter: none
    head = struct.pack(">2I5B", wide.shape[1], wide.shape[0], 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", head), *more, (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks))


def rgb_16_bit(path: Path) -> np.ndarray:
    wide = np.random.default_rng(4).integers(0, 2**16, (12, 16, 3), dtype=np.uint16)
    write_wide_png(path, wide, colour_type=2)
    return np.round(wide / 257)[None]


def transparent_grey_16_bit(path: Path) -> np.ndarray:
    wide = np.random.default_rng(3).integers(1000, 1004, (12, 16), dtype=np.uint16)  # 1001 alone lets white through
    write_wide_png(path, wide, colour_type=0, more=((b"tRNS", struct.pack(">H", 1001)),))
    return np.stack([np.where(wide == 1001, 255, np.round(wide / 257))] * 3, -1)[None]


def transparent(path: Path) -> np.ndarray:
    colour, opacity = noise(5), noise(6)[..., :1]
    Image.fromarray(np.concatenate([colour, opacity], -1)).save(path)
    return (255 - (255 - colour.astype(float)) * (opacity / 255.0))[None]  # over white


def palette(path: Path) -> np.ndarray:
    colours, places = np.array([RED, GREEN, BLUE, (9, 99, 199)], np.uint8), noise(7)[..., 0] % 4
    image = Image.fromarray(places).convert("P")
    image.putpalette(colours.tobytes())
    image.save(path, transparency=3)
    colours[3] = 255  # it lets white through
    return colours[places][None]


def cmyk(path: Path) -> np.ndarray:
    inks = np.repeat(np.array([[(0, 255, 255, 0), (255, 0, 0, 128), (0, 0, 0, 0)]], np.uint8), 16, 0).repeat(16, 1)
    Image.fromarray(inks, mode="CMYK").save(path, quality=95)
    return (255 * (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255))[None]


def turned_by_exif(path: Path, orientation: int) -> np.ndarray:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored := quarters()).save(path, exif=exif, quality=95, subsampling=0)
    shown = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1),
             6: np.rot90(stored, -1), 7: stored[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(stored)}
    return shown[orientation][None]


def jpeg_by_another_name(path: Path) -> np.ndarray:
    Image.fromarray(pixels := quarters()).save(path, "jpeg", quality=95, subsampling=0)
    return pixels[None]


def write_frames(path: Path, frames: np.ndarray, *, codec: str, pix_fmt: str, layout: str = "rgb24") -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format=layout)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def video_33x47(path: Path) -> np.ndarray:
    frames = np.stack([noise(number, height=33, width=47) for number in range(5)])
    write_frames(path, frames, codec="ffv1", pix_fmt="bgr0")
    return frames


def half_chroma_33x47(path: Path) -> np.ndarray:
    colours = np.array([RED, GREEN, BLUE, WHITE, (99, 9, 199)], np.uint8)[:, None, None]
    frames = np.ascontiguousarray(np.broadcast_to(colours, (5, 33, 47, 3)))
    write_frames(path, frames, codec="libvpx-vp9", pix_fmt="yuv420p")
    return frames


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
    stored = quarters()
    write_video(path, torch.from_numpy(stored / 127.5 - 1).permute(2, 0, 1)[:, None].expand(-1, 5, -1, -1), fps=25)
    content = bytearray(path.read_bytes())
    one = 1 << 16
    at = content.index(struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns]
    content[at:at + 36] = struct.pack(">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return np.stack([np.rot90(stored, -quarter_turns)] * 5)


def variable_rate(path: Path) -> np.ndarray:
    encode(path, num_frames=5, ticks=[0, 400, 420, 900, 1000], b_frames=2)
    return np.stack([numbered_frame(number) for number in range(5)])


def truncated(path: Path, *, share: float = 0.6) -> None:
    """A JPEG or PNG of noise without its end."""
    Image.fromarray(noise(8, height=64, width=64)).save(path)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])


def truncated_video(path: Path) -> None:
    """Without its index, which is at the end."""
    encode(path, num_frames=40)
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 3])


def torn_stream(path: Path) -> None:
    """A recording that ended in the middle of its fifth frame."""
    frames = np.stack([noise(number, height=128, width=128) for number in range(6)])
    write_frames(path, frames, codec="mpeg2video", pix_fmt="yuv420p")
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[:(starts[4] + starts[5]) // 2])


def strip(path: Path) -> None:
    Image.new("RGB", (1, 20_000)).save(path)


def strip_of_video(path: Path) -> None:
    write_frames(path, np.zeros((5, 4000, 2, 3), np.uint8), codec="ffv1", pix_fmt="bgr0")


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("a page that says the file is gone\n" * 99)


def video_by_another_name(path: Path) -> None:
    encode(path.with_suffix(".mp4"), num_frames=5).rename(path)


def image_by_another_name(path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(9)).save(file, "png")
    path.write_bytes(file.getvalue())


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

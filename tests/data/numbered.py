"""Real tiny videos, whose frames may carry their own number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

BLOCK, ROWS, COLUMNS = 16, 4, 4  # the number's 16 bits, one per block, black or white


def numbered_frame(number: int) -> np.ndarray:
    """(64, 64, 3) uint8 that shows ``number`` in binary, and survives any codec."""
    bits = [(number >> bit) & 1 for bit in range(ROWS * COLUMNS)]
    small = np.array(bits, np.uint8).reshape(ROWS, COLUMNS) * 219 + 18
    return np.repeat(small.repeat(BLOCK, 0).repeat(BLOCK, 1)[..., None], 3, axis=2)


def number_of(frame: torch.Tensor) -> int:
    """The number that a (64, 64, 3) uint8 frame shows."""
    bright = frame.float().mean(-1).reshape(ROWS, BLOCK, COLUMNS, BLOCK)[:, 4:12, :, 4:12].mean((1, 3)) > 127
    return sum(int(bit) << place for place, bit in enumerate(bright.flatten()))


def numbers_of(pixels: torch.Tensor) -> list[int]:
    """The numbers that pixels (3, T, 64, 64) in [-1, 1] show."""
    return [number_of(frame) for frame in ((pixels + 1) * 127.5).permute(1, 2, 3, 0)]


def write_frames(path: Path, frames: Sequence[np.ndarray], *, codec: str = "libx264", pix_fmt: str = "yuv420p",
                 layout: str = "rgb24", gop: int = 12, b_frames: int = 0, fps: int = 25,
                 ticks: list[int] | None = None, options: dict[str, str] | None = None,
                 container_options: dict[str, str] | None = None) -> Path:
    """Write frames of one size; ``ticks`` are their presentation times in milliseconds, if not steady."""
    speed = {"preset": "ultrafast", "bf": str(b_frames)} if codec == "libx264" else {}
    unit = Fraction(1, fps) if ticks is None else Fraction(1, 1000)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=speed | (options or {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = pix_fmt, gop, b_frames
        if ticks is not None:
            stream.codec_context.time_base = unit
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format=layout)
            frame.pts, frame.time_base = number if ticks is None else ticks[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def encode(path: Path, *, num_frames: int, **options) -> Path:
    """:func:`write_frames` of numbered frames."""
    return write_frames(path, [numbered_frame(number) for number in range(num_frames)], **options)


def remux(source: Path, target: Path, *, earlier: int = 0, without: int = 0, options: dict | None = None,
          metadata: dict[str, str] | None = None) -> Path:
    """The same packets but the first ``without``, shown ``earlier`` frames of 1/25 s earlier (negative: later).

    In mp4 and mov what lies before 0 is hidden by an edit list, as a lossless cut leaves it.
    """
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options or {}) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        copy.metadata.update(metadata or {})
        for number, packet in enumerate(packet for packet in reader.demux(stream) if packet.size):
            if number < without:
                continue
            ticks = round(earlier / 25 / stream.time_base)
            packet.pts, packet.dts = (None if time is None else time - ticks for time in (packet.pts, packet.dts))
            packet.stream = copy
            writer.mux(packet)
    return target

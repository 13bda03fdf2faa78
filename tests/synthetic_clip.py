"""A clip by a formula in whole numbers, the same on every machine, and a file that keeps it to the last bit."""

from __future__ import annotations

from pathlib import Path

import av
import torch
from einops import rearrange
from torch import Tensor


def frames(number: int, *, num_frames: int, height: int, width: int) -> Tensor:
    """(T, H, W, 3) uint8, triangular waves that move; the number decides their directions."""
    t, y, x, c = torch.meshgrid(*map(torch.arange, (num_frames, height, width, 3)), indexing="ij")
    phase = x * (7 + number % 5) + y * (3 + c * (number % 7)) + t * (11 - 4 * c) + 40 * number
    return ((phase % 510) - 255).abs().to(torch.uint8)


def pixels_of(clip: Tensor) -> Tensor:
    """(T, H, W, 3) uint8 -> (1, 3, T, H, W) float32 in [-1, 1]."""
    return rearrange(clip.float() / 127.5 - 1, "t h w c -> 1 c t h w").contiguous()


def write_lossless(path: Path, clip: Tensor) -> None:
    """Frames (T, H, W, 3) uint8 as a video that loses nothing, at 8 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "bgr0"
        for frame in clip.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())

"""Decoded frames to pixels: resize, crop and flip, the same for images and clips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.contracts import DataError

# Largest area of a resized frame, in squares of the requested size: frames up to 100 times as long as wide.
# Without a limit, one file of 1 x 2,000,000 pixels, resized to cover 128 x 128, would take 98 GB.
MAX_SQUARES = 100


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 frames (T, H, W, C) -> float32 pixels (C, T, H, W) in [-1, 1]."""
    pixels = rearrange(frames, "t h w c -> c t h w").to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.div_(127.5).sub_(1.0).clamp_(-1.0, 1.0)


def to_frames(pixels: Tensor) -> Tensor:
    """Pixels (C, T, H, W) of about [-1, 1] -> uint8 frames (T, H, W, C), clamped and rounded."""
    values = ((pixels.detach().float().cpu() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(values, "c t h w -> t h w c").contiguous()


def resize(frames: Sequence[Tensor], *, size: tuple[int, int]) -> Tensor:
    """Bicubic resize with antialiasing, in uint8: T frames (H, W, C), or one tensor of them -> (T, *size, C).

    The uint8 kernel works as Pillow's does; it is within one grey level of the float one and, for
    720p to 128 pixels, about 50 times as fast.
    """
    if tuple(frames[0].shape[:2]) == tuple(size):
        return frames if isinstance(frames, Tensor) else torch.stack(list(frames))
    # one by one: copying large frames together would cost as much as decoding them
    planes = (rearrange(frame, "h w c -> 1 c h w") for frame in frames)  # channels-last views, as the kernel needs
    resized = (F.interpolate(plane, size=size, mode="bicubic", antialias=True) for plane in planes)
    return torch.stack([rearrange(plane, "1 c h w -> h w c") for plane in resized])


def frame_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) of one number or (H, W); a ValueError if they are not whole numbers above 0."""
    sides = (size, size) if isinstance(size, int) else size
    if not (isinstance(sides, list | tuple) and len(sides) == 2
            and all(isinstance(side, int) and side > 0 for side in sides)):
        raise ValueError(f"size takes one positive number or (H, W), whole numbers of pixels, got {size!r}.")
    return sides[0], sides[1]


def check_enlargement(height: int, width: int, *, resized: tuple[int, int], side: int) -> None:
    """Raise a DataError if frames (height, width) are enlarged to more than ``MAX_SQUARES * side**2`` pixels."""
    if resized[0] * resized[1] > max(MAX_SQUARES * side**2, height * width):
        raise DataError(f"needed frames at most {MAX_SQUARES} times as long as wide, got {height} x {width}, which "
                        f"would be resized to {resized[0]} x {resized[1]}; crop or remove the file.")


class Framing:
    """Turns frames of any size into pixels of ``size``: resize, crop, flip, shuffle the channels.

    ``short_edge`` is the short edge after the resize: training draws from a (lo, hi) range, evaluation uses lo, None
    is the smallest resize that covers ``size``. A frame that does not cover ``size`` at it is enlarged until it does.
    Evaluation uses the centre crop without flip and shuffle.
    """

    def __init__(self, *, size: int | tuple[int, int], short_edge: int | tuple[int, int] | None = None,
                 train: bool = True, flip: float = 0.5, channel_shuffle: float = 0.0):
        self.size = frame_size(size)
        for name, probability in (("flip", flip), ("channel_shuffle", channel_shuffle)):
            if not 0.0 <= probability <= 1.0:
                raise ValueError(f"{name} takes a probability in [0, 1], got {probability}.")
        self.edges = (short_edge, short_edge) if isinstance(short_edge, int) else short_edge or (0, 0)
        if len(self.edges) != 2 or self.edges[0] > self.edges[1]:
            raise ValueError(f"short_edge takes a number or (lo, hi) with lo <= hi, got {self.edges}.")
        if short_edge is not None and self.edges[0] < min(self.size):
            raise ValueError(f"short_edge {self.edges[0]} cannot cover size {self.size}; give at least "
                             f"{min(self.size)}, or None for the smallest resize that covers it.")
        self.train, self.flip, self.channel_shuffle = train, flip, channel_shuffle

    def _edge(self) -> int:
        """The short edge of the next resize; 0 for the smallest that covers ``size``."""
        lo, hi = self.edges
        return int(torch.randint(lo, hi + 1, ())) if self.train and lo < hi else lo

    def _resized(self, height: int, width: int, edge: int) -> tuple[int, int]:
        """(H', W') with short edge ``edge``, at least ``size`` on both sides."""
        scale = max(self.size[0] / height, self.size[1] / width, edge / min(height, width))
        resized = max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale))
        check_enlargement(height, width, resized=resized, side=max(*self.size, edge))
        return resized

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') of frames (height, width) with the short edge of the setting, drawn if it is a range."""
        return self._resized(height, width, self._edge())

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """The largest (H', W') to which frames (height, width) can be resized."""
        return self._resized(height, width, self.edges[1 if self.train else 0])

    def __call__(self, frames: Sequence[Tensor]) -> Tensor:
        """T frames (H, W, 3) uint8 of one size, or one tensor of them -> (3, T, *size) float32 in [-1, 1].

        Random numbers come from torch's global generator and are the same for all frames. Frames too long and thin
        to cover ``size`` raise a DataError.
        """
        frames = resize(frames, size=self.resized(*frames[0].shape[:2]))
        margins = [resized - size for resized, size in zip(frames.shape[1:3], self.size, strict=True)]
        top, left = (int(torch.randint(margin + 1, ())) if self.train else margin // 2 for margin in margins)
        frames = frames[:, top:top + self.size[0], left:left + self.size[1]]
        return to_pixels(self.augment(frames))

    def augment(self, frames: Tensor) -> Tensor:
        """Frames (T, H, W, C), in training flipped and with shuffled channels with their probabilities."""
        if self.train and self.flip and float(torch.rand(())) < self.flip:
            frames = frames.flip(2)
        if self.train and self.channel_shuffle and float(torch.rand(())) < self.channel_shuffle:
            frames = frames[..., torch.randperm(3)]
        return frames

"""From decoded frames to pixels: resize, crop and flip, for images and clips alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.contracts import DataError

# A resized frame must fit into so many squares of the size that is wanted, unless that is a reduction: a frame 100
# times as long as it is wide still does. Longer ones are no pictures, and to cover 128 x 128 pixels with 1 x 2,000,000
# would take 98 GB, all but the crop in vain.
MAX_SQUARES = 100


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 frames (T, H, W, C) -> float32 pixels (C, T, H, W) in [-1, 1].

    Example:
        >>> to_pixels(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)).flatten().tolist()
        [-1.0, 1.0]
    """
    pixels = rearrange(frames, "t h w c -> c t h w").to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.div_(127.5).sub_(1.0).clamp_(-1.0, 1.0)


def to_frames(pixels: Tensor) -> Tensor:
    """Pixels (C, T, H, W) of about [-1, 1] -> uint8 frames (T, H, W, C), clamped and rounded.

    Example:
        >>> to_frames(torch.tensor([-1.2, 0.0, 1.0]).view(1, 1, 1, 3)).flatten().tolist()
        [0, 128, 255]
    """
    values = ((pixels.detach().float().cpu() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(values, "c t h w -> t h w c").contiguous()


def resize(frames: Sequence[Tensor], *, size: tuple[int, int]) -> Tensor:
    """Bicubic resize with antialiasing, in uint8.

    The uint8 kernel works as Pillow's does; it is within one grey level of the float one and, for
    720p to 128 pixels, about 50 times as fast.

    Args:
        frames: T of (H, W, C) uint8, of one size; or all in one, (T, H, W, C).
        size: (H', W') wanted; frames that have it are left untouched.

    Returns:
        (T, H', W', C) uint8.

    Example:
        >>> resize(torch.full((2, 64, 96, 3), 7, dtype=torch.uint8), size=(32, 48)).shape
        torch.Size([2, 32, 48, 3])
    """
    if tuple(frames[0].shape[:2]) == tuple(size):
        return frames if isinstance(frames, Tensor) else torch.stack(list(frames))
    # One by one: to copy large frames together would cost as much as to decode them.
    return torch.stack([_resize(frame, size) for frame in frames])


def check_enlargement(height: int, width: int, *, resized: tuple[int, int], wanted: int) -> None:
    """Raise a DataError if frames of (height, width) grow beyond ``MAX_SQUARES`` squares of ``wanted`` pixels a side.

    Example:
        >>> check_enlargement(10, 1000, resized=(128, 12800), wanted=128)
        >>> check_enlargement(1, 2000, resized=(128, 256000), wanted=128)
        Traceback (most recent call last):
        toolkit.contracts.data.DataError: needed frames at most 100 times as long as wide, got 1 x 2000, ...
    """
    if resized[0] * resized[1] > max(MAX_SQUARES * wanted**2, height * width):
        raise DataError(f"needed frames at most {MAX_SQUARES} times as long as wide, got {height} x {width}, which "
                        f"would be resized to {resized[0]} x {resized[1]}; crop the file or leave it out.")


def _resize(frame: Tensor, size: tuple[int, int]) -> Tensor:
    # a view, and channels-last: the layout that the uint8 kernel wants
    planes = rearrange(frame, "h w c -> 1 c h w")
    planes = F.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return rearrange(planes, "1 c h w -> h w c")


class Framing:
    """How frames of any size become pixels of one size: resize, crop, flip.

    Args:
        size: (H, W) of the result, or one number for both.
        short_edge: Pixels of the short edge after the resize. A (lo, hi) range is drawn from in
            training; evaluation takes lo. None is the smallest resize that covers ``size``. A
            frame too narrow for ``size`` at that short edge is enlarged until it covers it.
        train: Random crop and flip; otherwise the centre crop and no flip.
        flip: Probability of a horizontal flip in training.
        channel_shuffle: Probability of a random order of R, G and B in training, for colours that
            a small data set lacks.

    Raises:
        ValueError: If ``short_edge`` is too small to cover ``size``, or a number is out of range.

    Example:
        >>> framing = Framing(size=32, train=False)
        >>> framing(torch.zeros(5, 48, 64, 3, dtype=torch.uint8)).shape
        torch.Size([3, 5, 32, 32])
    """

    def __init__(self, *, size: int | tuple[int, int], short_edge: int | tuple[int, int] | None = None,
                 train: bool = True, flip: float = 0.5, channel_shuffle: float = 0.0):
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size takes one positive number or (H, W), got {size!r}.")
        for name, probability in (("flip", flip), ("channel_shuffle", channel_shuffle)):
            if not 0.0 <= probability <= 1.0:
                raise ValueError(f"{name} takes a probability in [0, 1], got {probability}.")
        self.edges = (short_edge, short_edge) if isinstance(short_edge, int) else short_edge
        if self.edges is not None:
            self._check_edges()
        self.train, self.flip, self.channel_shuffle = train, flip, channel_shuffle

    def _check_edges(self) -> None:
        if len(self.edges) != 2 or self.edges[0] > self.edges[1]:
            raise ValueError(f"short_edge takes a number or (lo, hi) with lo <= hi, got {self.edges}.")
        if self.edges[0] < min(self.size):
            raise ValueError(f"short_edge {self.edges[0]} cannot cover size {self.size}; give at least "
                             f"{min(self.size)}, or None for the smallest resize that covers it.")

    def _edge(self) -> int:
        """The short edge to resize to; 0 for the smallest that covers ``size``."""
        lo, hi = self.edges or (0, 0)
        return int(torch.randint(lo, hi + 1, ())) if self.train and lo < hi else lo

    def _resized(self, height: int, width: int, edge: int) -> tuple[int, int]:
        """(H', W') with that short edge, at least ``size`` on both sides."""
        scale = max(self.size[0] / height, self.size[1] / width, edge / min(height, width))
        resized = max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale))
        check_enlargement(height, width, resized=resized, wanted=max(*self.size, edge))
        return resized

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """The largest (H', W') that frames of (height, width) are ever resized to."""
        return self._resized(height, width, (self.edges or (0, 0))[1 if self.train else 0])

    def __call__(self, frames: Sequence[Tensor]) -> Tensor:
        """T of (H, W, 3) uint8 of any one size, or all in one -> (3, T, *size) float32 in [-1, 1].

        Every draw is from torch's global generator, and the same for all frames.

        Raises:
            DataError: If the frames are too long and thin to cover ``size``.
        """
        frames = resize(frames, size=self._resized(*frames[0].shape[:2], self._edge()))
        spare = [have - want for have, want in zip(frames.shape[1:3], self.size, strict=True)]
        if self.train:
            top, left = (int(torch.randint(rest + 1, ())) for rest in spare)
        else:
            top, left = (rest // 2 for rest in spare)
        frames = frames[:, top:top + self.size[0], left:left + self.size[1]]
        if self.train and self.flip and float(torch.rand(())) < self.flip:
            frames = frames.flip(2)
        if self.train and self.channel_shuffle and float(torch.rand(())) < self.channel_shuffle:
            frames = frames[..., torch.randperm(3)]
        return to_pixels(frames)

"""Resampling between space and channels, with and without convolutions; the first frame stays one frame."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from toolkit.layers.causal_conv import CausalConv3d, StreamCache

KEPT_FRAMES = ("last", "first")  # and "all" inside a stream


def drop_frames(x: Tensor, s_t: int, kept_frame: str) -> Tensor:
    """Drop s_t - 1 of the first s_t frames of ``x`` (B, C, t * s_t, H, W); with "all" drop none."""
    if s_t == 1 or kept_frame == "all":
        return x
    return x[:, :, s_t - 1:] if kept_frame == "last" else torch.cat([x[:, :, :1], x[:, :, s_t:]], dim=2)


def fill_groups(x: Tensor, s_t: int, *, module: nn.Module, cache: StreamCache | None = None) -> Tensor:
    """(B, C, 1 + (t - 1) * s_t, H, W) -> (B, C, t * s_t, H, W): groups of frames, the first frame repeated s_t times.

    With ``cache``, a chunk of any number of frames -> the groups that it completes; the frames of an incomplete group
    wait in the cache, under ``module``.
    """
    if s_t == 1 or x.shape[2] == 0:
        return x
    in_stream = cache is not None and module in cache
    earlier = cache[module][0] if in_stream else x[:, :, :1].expand(-1, -1, s_t - 1, -1, -1)
    x = torch.cat([earlier, x], dim=2)
    num_waiting = x.shape[2] % s_t
    if cache is not None:
        complete = x.shape[2] - num_waiting
        cache[module] = x[:, :, complete:].clone(), 0  # a view would keep the whole chunk
        return x[:, :, :complete]
    if num_waiting:
        raise ValueError(f"{type(module).__name__} needs 1 + k * {s_t} frames, got {x.shape[2] - s_t + 1}; pad the "
                         "clip to the network's fitting_size, or pass a cache.")
    return x


def check_multiples(x: Tensor, stride: tuple[int, int, int], who: str) -> None:
    """Raise ValueError unless the stride divides (T, H, W) of ``x``."""
    if any(side % step for side, step in zip(x.shape[2:], stride, strict=True)):
        raise ValueError(f"{who} needs (T, H, W) of multiples of {tuple(stride)}, got {tuple(x.shape[2:])}; pad the "
                         "pixels to the network's fitting_size.")


def space_to_depth(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, C, t * s_t, h * s_h, w * s_w) -> (B, s_t * s_h * s_w * C, t, h, w).

    Channels are ordered (s_t, s_h, s_w, C), C fastest. The inverse of :func:`depth_to_space` with
    ``kept_frame="all"``.

    Args:
        x: Features or pixels.
        stride: (s_t, s_h, s_w), the frames, rows and columns of a block.

    Raises:
        ValueError: If T, H or W is not a multiple of its stride.

    Example:
        >>> space_to_depth(torch.zeros(1, 4, 6, 8, 8), (2, 2, 2)).shape
        torch.Size([1, 32, 3, 4, 4])
    """
    check_multiples(x, stride, "space_to_depth")
    s_t, s_h, s_w = stride
    # one copy; moving C from last to second gives channels_last_3d
    return rearrange(x, "b c (t st) (h sh) (w sw) -> b t h w (st sh sw c)", st=s_t, sh=s_h, sw=s_w).movedim(-1, 1)


def depth_to_space(x: Tensor, stride: tuple[int, int, int], kept_frame: str = "last") -> Tensor:
    """(B, s_t * s_h * s_w * C, t, h, w) -> (B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w).

    Channels are ordered (s_t, s_h, s_w, C), C fastest. With ``kept_frame="all"`` there are t * s_t frames.

    Args:
        x: Features with s_t * s_h * s_w * C channels.
        stride: (s_t, s_h, s_w), the upsampling factors.
        kept_frame: Which of the first frame's s_t output frames is kept: "last" (MAGVIT-v2), "first"
            (Open-MAGVIT2), or "all", for the later chunks of a stream.

    Example:
        >>> depth_to_space(torch.zeros(1, 32, 3, 4, 4), (2, 2, 2)).shape
        torch.Size([1, 4, 5, 8, 8])
    """
    s_t, s_h, s_w = stride
    # one copy; moving C from last to second gives channels_last_3d
    x = rearrange(x, "b (st sh sw c) t h w -> b (t st) (h sh) (w sw) c", st=s_t, sh=s_h, sw=s_w).movedim(-1, 1)
    return drop_frames(x, s_t, kept_frame)


def repeat_nearest(x: Tensor, stride: tuple[int, int, int], kept_frame: str = "last") -> Tensor:
    """(B, d, t, h, w) -> (B, d, 1 + (t - 1) * s_t, h * s_h, w * s_w), each entry repeated.

    Arguments as :func:`depth_to_space`; here "last" and "first" give the same.

    Example:
        >>> repeat_nearest(torch.tensor([1., 2.]).reshape(1, 1, 2, 1, 1), (2, 1, 1)).flatten().tolist()
        [1.0, 2.0, 2.0]
    """
    s_t, s_h, s_w = stride
    x = repeat(x, "b d t h w -> b (t st) (h sh) (w sw) d", st=s_t, sh=s_h, sw=s_w).movedim(-1, 1)
    return drop_frames(x, s_t, kept_frame)


class DepthToSpaceUpsample(nn.Module):
    """Convolution to ``s_t * s_h * s_w`` times the channels, then depth-to-space.

    Args:
        channels: C of the input.
        out_channels: C of the output; by default that of the input.
        stride: (s_t, s_h, s_w), the upsampling factors.
        temporal_kernel: k_t of the convolution.
        padding: Padding of the convolution, "zeros" or "replicate".
        kept_frame: "last" or "first", as in :func:`depth_to_space`.

    Raises:
        ValueError: If ``kept_frame`` is unknown.

    Example:
        >>> DepthToSpaceUpsample(8, stride=(2, 2, 2), temporal_kernel=3)(torch.zeros(1, 8, 3, 4, 4)).shape
        torch.Size([1, 8, 5, 8, 8])
    """

    def __init__(self, channels: int, *, stride: tuple[int, int, int], temporal_kernel: int,
                 out_channels: int | None = None, padding: str = "zeros", kept_frame: str = "last"):
        super().__init__()
        if kept_frame not in KEPT_FRAMES:
            raise ValueError(f"DepthToSpaceUpsample needs kept_frame 'last' or 'first', got {kept_frame!r}.")
        self.stride, self.kept_frame = stride, kept_frame
        self.conv = CausalConv3d(channels, (out_channels or channels) * math.prod(stride),
                                 kernel_size=(temporal_kernel, 3, 3), padding=padding)

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, C, t, h, w) -> (B, C', 1 + (t - 1) * s_t, h * s_h, w * s_w); later chunks keep all t * s_t frames."""
        s_t, s_h, s_w = self.stride
        if cache is None and x.shape[2] == 1:  # compute only the channels of the kept frame
            channels = self.conv.out_channels // s_t
            kept = slice(-channels, None) if self.kept_frame == "last" else slice(channels)
            return depth_to_space(self.conv.single_frame(x, kept), (1, s_h, s_w))
        kept_frame = self.next_kept_frame(cache)  # read before the convolution fills the cache
        return depth_to_space(self.conv(x, cache), self.stride, kept_frame)

    def next_kept_frame(self, cache: StreamCache | None) -> str:
        """``kept_frame`` for the next chunk: "all" once the stream has begun."""
        return "all" if cache is not None and self.conv in cache else self.kept_frame


class ResidualUpsample(DepthToSpaceUpsample):
    """Depth-to-space upsampling plus a shortcut without parameters (DC-AE, arXiv:2410.10733, sec. 3.1).

    The shortcut repeats channels to ``s_h * s_w * C'``, moves them to space and repeats frames s_t times. With
    C' = C it is nearest-neighbour upsampling. Frames are repeated so that an image network can be inflated.

    Args:
        channels: C.
        out_channels: C'.
        stride, temporal_kernel, padding, kept_frame: As :class:`DepthToSpaceUpsample`.

    Raises:
        ValueError: If ``s_h * s_w * C'`` is not a multiple of C, or ``kept_frame`` is unknown.

    Example:
        >>> layer = ResidualUpsample(8, 4, stride=(2, 2, 2), temporal_kernel=3)
        >>> layer(torch.zeros(1, 8, 3, 4, 4)).shape
        torch.Size([1, 4, 5, 8, 8])
    """

    def __init__(self, channels: int, out_channels: int, *, stride: tuple[int, int, int], temporal_kernel: int,
                 padding: str = "zeros", kept_frame: str = "last"):
        super().__init__(channels, out_channels=out_channels, stride=stride, temporal_kernel=temporal_kernel,
                         padding=padding, kept_frame=kept_frame)
        self.repeats = _quotient("ResidualUpsample", stride[1] * stride[2] * out_channels, channels)

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, C, t, h, w) -> (B, C', 1 + (t - 1) * s_t, h * s_h, w * s_w); later chunks keep all t * s_t frames."""
        kept_frame = self.next_kept_frame(cache)  # read before the convolution fills the cache
        return super().forward(x, cache) + self._shortcut(x, kept_frame)

    def _shortcut(self, x: Tensor, kept_frame: str) -> Tensor:
        s_t, s_h, s_w = self.stride
        x = repeat(x, "b c t h w -> b (c r) t h w", r=self.repeats)
        x = rearrange(x, "b (c sh sw) t h w -> b t (h sh) (w sw) c", sh=s_h, sw=s_w).movedim(-1, 1)
        return repeat_nearest(x, (s_t, 1, 1), kept_frame) if s_t > 1 else x


class ResidualDownsample(nn.Module):
    """Strided causal convolution plus a shortcut without parameters (DC-AE, arXiv:2410.10733, sec. 3.1).

    The shortcut averages the s_t frames of a group, moves space to ``s_h * s_w * C`` channels and averages them in
    C' groups. With C' = C it is average pooling. The first frame is a group of its own. Frames are averaged so that
    an image network can be inflated.

    Args:
        channels: C.
        out_channels: C'.
        stride: (s_t, s_h, s_w).
        kernel_size: (k_t, k_h, k_w) of the convolution.
        padding: Padding of the convolution, "zeros" or "replicate".

    Raises:
        ValueError: If ``s_h * s_w * C`` is not a multiple of C', or ``padding`` is unknown.

    Example:
        >>> layer = ResidualDownsample(4, 8, stride=(2, 2, 2), kernel_size=(3, 3, 3))
        >>> layer(torch.zeros(1, 4, 5, 8, 8)).shape
        torch.Size([1, 8, 3, 4, 4])
    """

    def __init__(self, channels: int, out_channels: int, *, stride: tuple[int, int, int],
                 kernel_size: tuple[int, int, int], padding: str = "zeros"):
        super().__init__()
        self.group_size = _quotient("ResidualDownsample", stride[1] * stride[2] * channels, out_channels)
        self.conv = CausalConv3d(channels, out_channels, kernel_size=kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w) -> (B, C', t, h, w); with ``cache``, a chunk of a stream."""
        return self.conv(x, cache) + self._shortcut(x, cache)

    def _shortcut(self, x: Tensor, cache: StreamCache | None) -> Tensor:
        s_t, s_h, s_w = self.conv.stride
        x = fill_groups(x, s_t, module=self, cache=cache)
        check_multiples(x, self.conv.stride, "ResidualDownsample")
        x = rearrange(x, "b c (t st) (h sh) (w sw) -> b t h w (c sh sw st)", st=s_t, sh=s_h, sw=s_w)
        return x.unflatten(-1, (-1, self.group_size * s_t)).mean(-1).movedim(-1, 1)


def _quotient(who: str, wide: int, narrow: int) -> int:
    if wide % narrow:
        raise ValueError(f"{who} needs widths whose shortcut has whole groups of channels, got {wide} channels for "
                         f"{narrow}; choose widths that divide each other.")
    return wide // narrow

"""Upsampling by depth-to-space and by repetition; the first frame stays one frame."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from toolkit.layers.causal_conv import CausalConv3d, StreamCache

KEPT_FRAMES = ("last", "first")  # and "all" inside a stream


def _drop_frames(x: Tensor, s_t: int, kept_frame: str) -> Tensor:
    """Drop s_t - 1 of the first s_t frames of ``x`` (B, C, t * s_t, H, W); with "all" drop none."""
    if s_t == 1 or kept_frame == "all":
        return x
    return x[:, :, s_t - 1:] if kept_frame == "last" else torch.cat([x[:, :, :1], x[:, :, s_t:]], dim=2)


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
    return _drop_frames(x, s_t, kept_frame)


def repeat_nearest(x: Tensor, stride: tuple[int, int, int], kept_frame: str = "last") -> Tensor:
    """(B, d, t, h, w) -> (B, d, 1 + (t - 1) * s_t, h * s_h, w * s_w), each entry repeated.

    Arguments as :func:`depth_to_space`; here "last" and "first" give the same.

    Example:
        >>> repeat_nearest(torch.tensor([1., 2.]).reshape(1, 1, 2, 1, 1), (2, 1, 1)).flatten().tolist()
        [1.0, 2.0, 2.0]
    """
    s_t, s_h, s_w = stride
    x = repeat(x, "b d t h w -> b (t st) (h sh) (w sw) d", st=s_t, sh=s_h, sw=s_w).movedim(-1, 1)
    return _drop_frames(x, s_t, kept_frame)


class DepthToSpaceUpsample(nn.Module):
    """Convolution to ``s_t * s_h * s_w`` times the channels, then depth-to-space.

    Args:
        channels: C, in and out.
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
                 padding: str = "zeros", kept_frame: str = "last"):
        super().__init__()
        if kept_frame not in KEPT_FRAMES:
            raise ValueError(f"DepthToSpaceUpsample needs kept_frame 'last' or 'first', got {kept_frame!r}.")
        self.stride, self.kept_frame = stride, kept_frame
        self.conv = CausalConv3d(channels, channels * stride[0] * stride[1] * stride[2],
                                 kernel_size=(temporal_kernel, 3, 3), padding=padding)

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, C, t, h, w) -> (B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w); later chunks keep all t * s_t frames."""
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

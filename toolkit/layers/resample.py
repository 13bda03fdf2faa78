"""Growing a grid by depth-to-space and by repetition, keeping the first frame alone."""

from __future__ import annotations

from einops import rearrange, repeat
from torch import Tensor, nn

from toolkit.layers.causal_conv import CausalConv3d


def depth_to_space(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, s_t * s_h * s_w * C, t, h, w) -> (B, C, t * s_t - (s_t - 1), h * s_h, w * s_w).

    Channels are ordered (s_t, s_h, s_w, C), C running fastest. The first frame stands alone:
    the s_t - 1 frames before it are dropped.

    Example:
        >>> import torch
        >>> depth_to_space(torch.zeros(1, 32, 3, 4, 4), (2, 2, 2)).shape
        torch.Size([1, 4, 5, 8, 8])
    """
    s_t, s_h, s_w = stride
    x = rearrange(x, "b (st sh sw c) t h w -> b c (t st) (h sh) (w sw)", st=s_t, sh=s_h, sw=s_w)
    return x[:, :, s_t - 1:]


def repeat_nearest(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, d, t, h, w) -> (B, d, t * s_t - (s_t - 1), h * s_h, w * s_w), each entry repeated.

    The same leading frames are dropped as by :func:`depth_to_space`.

    Example:
        >>> import torch
        >>> repeat_nearest(torch.tensor([1., 2.]).reshape(1, 1, 2, 1, 1), (2, 1, 1)).flatten().tolist()
        [1.0, 2.0, 2.0]
    """
    s_t, s_h, s_w = stride
    x = repeat(x, "b d t h w -> b d (t st) (h sh) (w sw)", st=s_t, sh=s_h, sw=s_w)
    return x[:, :, s_t - 1:]


class DepthToSpaceUpsample(nn.Module):
    """Convolution to ``s_t * s_h * s_w`` times the channels, then depth-to-space.

    Args:
        channels: C, in and out.
        stride: (s_t, s_h, s_w), by how much the grid grows.
        temporal_kernel: k_t of the convolution.

    Example:
        >>> import torch
        >>> DepthToSpaceUpsample(8, stride=(2, 2, 2), temporal_kernel=3)(torch.zeros(1, 8, 3, 4, 4)).shape
        torch.Size([1, 8, 5, 8, 8])
    """

    def __init__(self, channels: int, *, stride: tuple[int, int, int], temporal_kernel: int):
        super().__init__()
        self.stride = stride
        self.conv = CausalConv3d(channels, channels * stride[0] * stride[1] * stride[2],
                                 kernel_size=(temporal_kernel, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, t, h, w) -> (B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w)."""
        if x.shape[2] == 1:
            # Only the last of the s_t frames is kept, and its channels are the last ones.
            kept = self.conv.out_channels // self.stride[0]
            return depth_to_space(self.conv.single_frame(x, slice(-kept, None)), (1, *self.stride[1:]))
        return depth_to_space(self.conv(x), self.stride)

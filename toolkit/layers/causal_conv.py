"""Causal 3-D convolution: a frame sees itself and earlier frames only (MAGVIT-v2, arXiv:2310.05737, sec. 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

StreamCache = dict[nn.Module, Tensor]


class CausalConv3d(nn.Conv3d):
    """Convolution padded with zeros: in time before the first frame only, in space on all sides.

    Time is padded with ``k_t - 1`` frames, so T frames become ``1 + (T - 1) // s_t`` and the first
    frame always stands alone. Space is padded by the convolution itself, without a copy.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: (k_t, k_h, k_w); k_h and k_w odd.
        stride: (s_t, s_h, s_w).
        bias: Whether to add a bias.

    Example:
        >>> conv = CausalConv3d(3, 8, kernel_size=(3, 3, 3), stride=(2, 2, 2))
        >>> conv(torch.zeros(1, 3, 5, 16, 16)).shape
        torch.Size([1, 8, 3, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: tuple[int, int, int],
                 stride: tuple[int, int, int] = (1, 1, 1), bias: bool = True):
        padding = (0, kernel_size[1] // 2, kernel_size[2] // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T', H', W').

        Args:
            x: A clip, or with ``cache`` the next chunk of one, of any number of frames.
            cache: Where the convolution keeps the input frames that later chunks still need; one
                empty dict per stream. Chunks concatenated equal the whole clip's output.
        """
        if cache is None and x.shape[2] == 1:
            return self.single_frame(x)
        k_t, s_t = self.kernel_size[0], self.stride[0]
        if cache is None:
            return super().forward(F.pad(x, (0, 0, 0, 0, k_t - 1, 0)))
        past = cache.get(self)
        reach = max(k_t, s_t)  # frames an output stands for; a stride beyond the kernel skips its first ones
        x = F.pad(x, (0, 0, 0, 0, reach - 1, 0)) if past is None else torch.cat([past, x], dim=2)
        ready = max(0, (x.shape[2] - reach) // s_t + 1)  # outputs whose input frames are all here
        cache[self] = x[:, :, ready * s_t:].clone()  # a view would keep the whole chunk alive
        # No output yet: a window of padding gives the shape, and no frame of it is kept.
        window = x[:, :, reach - k_t:(ready - 1) * s_t + reach] if ready else x.new_zeros(
            *x.shape[:2], k_t, *x.shape[3:])
        return super().forward(window)[:, :, :ready]

    def single_frame(self, x: Tensor, channels: slice = slice(None)) -> Tensor:
        """A lone frame (B, in, 1, H, W), by a 2-D convolution.

        All earlier frames are zero padding, so only the kernel's last temporal slice sees data.

        Args:
            x: The frame.
            channels: Which output channels are wanted.
        """
        bias = None if self.bias is None else self.bias[channels]
        return F.conv2d(x.squeeze(2), self.weight[channels, :, -1], bias, self.stride[1:],
                        self.padding[1:]).unsqueeze(2)

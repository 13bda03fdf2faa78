"""Causal 3-D convolution: a frame sees itself and earlier frames only (MAGVIT-v2, arXiv:2310.05737, sec. 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

StreamCache = dict[nn.Module, Tensor]
PADDINGS = ("zeros", "replicate")


class CausalConv3d(nn.Conv3d):
    """Convolution padded in time before the first frame only, in space on all sides.

    Time is padded with ``k_t - 1`` frames, so T frames become ``1 + (T - 1) // s_t`` and the first
    frame always stands alone. Space is padded with ``(k - 1) // 2`` before and ``k // 2`` after, so
    a stride of 2 halves an even side with a kernel of 3 as with one of 4.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: (k_t, k_h, k_w).
        stride: (s_t, s_h, s_w).
        bias: Whether to add a bias.
        padding: "zeros", or "replicate" to repeat the first frame and the border (Google's code).

    Raises:
        ValueError: If ``padding`` is another one.

    Example:
        >>> conv = CausalConv3d(3, 8, kernel_size=(3, 3, 3), stride=(2, 2, 2))
        >>> conv(torch.zeros(1, 3, 5, 16, 16)).shape
        torch.Size([1, 8, 3, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: tuple[int, int, int],
                 stride: tuple[int, int, int] = (1, 1, 1), bias: bool = True, padding: str = "zeros"):
        if padding not in PADDINGS:
            raise ValueError(f"CausalConv3d pads with 'zeros' or 'replicate', got {padding!r}.")
        _, k_h, k_w = kernel_size
        # The convolution pads space itself, without a copy, where it can: with zeros, alike on both sides.
        by_itself = padding == "zeros" and k_h % 2 == k_w % 2 == 1
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias,
                         padding=(0, k_h // 2, k_w // 2) if by_itself else 0)
        self.fill = "constant" if padding == "zeros" else "replicate"  # F.pad's word
        self.space = (0, 0, 0, 0) if by_itself else ((k_w - 1) // 2, k_w // 2, (k_h - 1) // 2, k_h // 2)

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T', H', W').

        Args:
            x: A clip, or with ``cache`` the next chunk of one, of any number of frames.
            cache: Where the convolution keeps the input frames that later chunks still need; one
                empty dict per stream. Chunks concatenated equal the whole clip's output.
        """
        if x.shape[2] == 0:  # in a stream, what a chunk that completed nothing becomes further on
            return self._nothing(x)
        if cache is None and x.shape[2] == 1:
            return self.single_frame(x)
        k_t, s_t = self.kernel_size[0], self.stride[0]
        if cache is None:
            return super().forward(self._pad(x, k_t - 1))
        past = cache.get(self)
        reach = max(k_t, s_t)  # frames an output stands for; a stride beyond the kernel skips its first ones
        x = F.pad(x, (0, 0, 0, 0, reach - 1, 0), mode=self.fill) if past is None else torch.cat([past, x], dim=2)
        ready = max(0, (x.shape[2] - reach) // s_t + 1)  # outputs whose input frames are all here
        cache[self] = x[:, :, ready * s_t:].clone()  # a view would keep the whole chunk alive
        if not ready:
            return self._nothing(x)
        return super().forward(self._pad(x[:, :, reach - k_t:(ready - 1) * s_t + reach], 0))

    def _pad(self, x: Tensor, frames: int) -> Tensor:
        padding = (*self.space, frames, 0)
        return F.pad(x, padding, mode=self.fill) if any(padding) else x

    def _nothing(self, x: Tensor) -> Tensor:
        """No frames, of the output's other sizes: a window of zeros tells them."""
        window = x.new_zeros(*x.shape[:2], self.kernel_size[0], *x.shape[3:])
        return super().forward(self._pad(window, 0))[:, :, :0]

    def single_frame(self, x: Tensor, channels: slice = slice(None)) -> Tensor:
        """A lone frame (B, in, 1, H, W), by a 2-D convolution.

        All earlier frames are padding. Of zeros: only the kernel's last temporal slice sees data.
        Of copies of the frame: the kernel acts as its sum over time.

        Args:
            x: The frame.
            channels: Which output channels are wanted.
        """
        bias = None if self.bias is None else self.bias[channels]
        kernel = self.weight[channels]
        kernel = kernel[:, :, -1] if self.fill == "constant" else kernel.sum(2)
        return F.conv2d(self._pad(x, 0).squeeze(2), kernel, bias, self.stride[1:], self.padding[1:]).unsqueeze(2)

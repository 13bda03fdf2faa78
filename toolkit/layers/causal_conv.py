"""Causal 3-D convolution: a frame sees itself and earlier frames only (MAGVIT-v2, arXiv:2310.05737, sec. 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Convolution -> (frames to prepend to the next chunk, number of its first frames to skip: 0 unless s_t > k_t).
StreamCache = dict[nn.Module, tuple[Tensor, int]]
PADDINGS = ("zeros", "replicate")
IM2COL_LIMIT = 20_480  # PyTorch convolves one float32 clip of at most this C * T * H on a CPU by im2col, not by oneDNN


class CausalConv3d(nn.Conv3d):
    """Convolution with temporal padding before the first frame and spatial padding on all sides.

    Time is padded with ``k_t - 1`` frames, so T frames become ``1 + (T - 1) // s_t``, and the first output depends on
    the first frame only. Space is padded with ``(k - 1) // 2`` before and ``k // 2`` after, so stride 2 halves an even
    H or W for kernel sizes 3 and 4.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: (k_t, k_h, k_w).
        stride: (s_t, s_h, s_w).
        bias: Whether to add a bias.
        padding: "zeros", or "replicate" to repeat the first frame and the border (Google's praxis).

    Raises:
        ValueError: If ``padding`` is unknown.

    Example:
        >>> conv = CausalConv3d(3, 8, kernel_size=(3, 3, 3), stride=(2, 2, 2))
        >>> conv(torch.zeros(1, 3, 5, 16, 16)).shape
        torch.Size([1, 8, 3, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: tuple[int, int, int],
                 stride: tuple[int, int, int] = (1, 1, 1), bias: bool = True, padding: str = "zeros"):
        if padding not in PADDINGS:
            raise ValueError(f"CausalConv3d needs padding 'zeros' or 'replicate', got {padding!r}.")
        _, k_h, k_w = kernel_size
        self.pad_mode = "constant" if padding == "zeros" else "replicate"
        self.space_padding, conv_padding = ((k_w - 1) // 2, k_w // 2, (k_h - 1) // 2, k_h // 2), (0, 0, 0)
        if padding == "zeros" and k_h % 2 and k_w % 2:  # F.conv3d pads equal sides without a copy
            self.space_padding, conv_padding = (0, 0, 0, 0), (0, k_h // 2, k_w // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, conv_padding, bias=bias)
        self.to(memory_format=torch.channels_last_3d)  # cuDNN would otherwise reorder the kernel at every call

    def forward(self, x: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T', H', W').

        With ``cache`` (an empty dict at the start of a stream) ``x`` is the next chunk of a clip, of any number of
        frames. The outputs of the chunks, concatenated, equal the output of the clip.
        """
        if x.shape[2] == 0:  # the layer before gave no output for this chunk
            return self._no_frames(x)
        if cache is None:
            if x.shape[2] == 1:
                return self.single_frame(x)
            return self._convolve(x, frames_before=self.kernel_size[0] - 1)
        x, num_outputs = self._continue(x, cache)
        return self._convolve(x) if num_outputs else self._no_frames(x)

    def _convolve(self, x: Tensor, frames_before: int = 0) -> Tensor:
        x = self._pad(x, (*self.space_padding, frames_before, 0))
        if self._is_slow(x):
            return self._convolve_halves(x)
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding)

    def _is_slow(self, x: Tensor) -> bool:
        """Whether PyTorch uses im2col for ``x``. False when compiling, and for the fake tensors of a dry run."""
        return (type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
                and len(x) == 1 and x.shape[1] == self.in_channels and x[0, ..., 0].numel() <= IM2COL_LIMIT
                and max(self.kernel_size) > 1 and min(self.kernel_size[1:]) <= 3
                and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu"))

    def _convolve_halves(self, x: Tensor) -> Tensor:
        """Convolve the upper and the lower half of one clip as a batch of two, for which PyTorch uses oneDNN."""
        k_h, s_h = self.kernel_size[1], self.stride[1]
        x = F.pad(x, (self.padding[2], self.padding[2], self.padding[1], self.padding[1]))
        num_rows = (x.shape[3] - k_h) // s_h + 1  # of the output
        half = (num_rows + 1) // 2
        height, start = (half - 1) * s_h + k_h, (num_rows - half) * s_h  # of the halves, of the lower half
        halves = torch.cat([x[:, :, :, :height], x[:, :, :, start:start + height]])
        upper, lower = F.conv3d(halves, self.weight, self.bias, self.stride).chunk(2)
        return torch.cat([upper[:, :, :, :num_rows - half], lower], dim=3)

    def _pad(self, x: Tensor, sides: tuple[int, ...]) -> Tensor:
        return F.pad(x, sides, mode=self.pad_mode) if any(sides) else x  # F.pad would copy

    def single_frame(self, x: Tensor, channels: slice = slice(None)) -> Tensor:
        """(B, in, 1, H, W) -> (B, out, 1, H', W') of a frame without history; ``channels`` selects output channels.

        A 2-D convolution suffices: the earlier taps of the kernel see zeros, or copies of the frame.
        """
        weight, bias = self.weight[channels], None if self.bias is None else self.bias[channels]
        kernel = weight[:, :, -1] if self.pad_mode == "constant" else weight.sum(2)
        frame = self._pad(x.select(2, 0), self.space_padding)
        return F.conv2d(frame, kernel, bias, self.stride[1:], self.padding[1:]).unsqueeze(2)

    def _no_frames(self, x: Tensor) -> Tensor:
        """The empty output (B, out, 0, H', W'); a convolution of 0 clips gives H' and W'."""
        output = self.single_frame(x.new_empty(0, x.shape[1], 1, *x.shape[3:]))
        return output.new_empty(len(x), self.out_channels, 0, *output.shape[3:])

    def _continue(self, x: Tensor, cache: StreamCache) -> tuple[Tensor, int]:
        """Prepend the cached frames (or the padding) to a chunk, and cache the frames that later outputs need.

        Returns the input, from the next output's first frame, and the number of output frames.
        """
        k_t, s_t = self.kernel_size[0], self.stride[0]
        if self in cache:
            cached_frames, skip = cache[self]
            x = torch.cat([cached_frames, x], dim=2)
        else:
            x, skip = self._pad(x, (0, 0, 0, 0, k_t - 1, 0)), 0
        num_outputs = max(0, (x.shape[2] - skip - k_t) // s_t + 1)
        next_start = skip + num_outputs * s_t
        num_dropped = min(next_start, x.shape[2])
        cache[self] = x[:, :, num_dropped:].clone(), next_start - num_dropped  # a view would keep the whole chunk
        return x[:, :, skip:], num_outputs

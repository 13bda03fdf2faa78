"""The causal encoder and decoder of MAGVIT-v2 (Yu et al., arXiv:2310.05737, fig. 8).

A level is a run of residual blocks at one resolution. Between levels space halves, and time where
``temporal_downsample`` says so. With ``temporal_kernel=1`` the same classes are the 2-D networks.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Decoder, Encoder
from toolkit.layers import (
    AdaptiveGroupNorm,
    CausalConv3d,
    DepthToSpaceUpsample,
    FrameGroupNorm,
    ResBlock,
    repeat_nearest,
    run_block,
)
from toolkit.registry import DECODERS, ENCODERS


def _level_strides(who: str, channel_multipliers: tuple[int, ...],
                   temporal_downsample: tuple[bool, ...]) -> list[tuple[int, int, int]]:
    """The stride between each level and the next, from the finest to the coarsest."""
    if len(temporal_downsample) != len(channel_multipliers) - 1:
        raise ValueError(
            f"{who} needs one temporal_downsample entry between each two of its {len(channel_multipliers)} "
            f"levels, got {len(temporal_downsample)}; give {len(channel_multipliers) - 1} of True or False.")
    return [(2 if halve_time else 1, 2, 2) for halve_time in temporal_downsample]


def _total(strides: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    s_t, s_h, s_w = (math.prod(axis) for axis in zip((1, 1, 1), *strides, strict=True))
    return s_t, s_h, s_w


def _res_blocks(in_channels: int, out_channels: int, *, num_res_blocks: int, temporal_kernel: int,
                num_groups: int) -> nn.ModuleList:
    """Residual blocks, of which the first changes the width."""
    return nn.ModuleList(
        ResBlock(in_channels if i == 0 else out_channels, out_channels, temporal_kernel=temporal_kernel,
                 num_groups=num_groups) for i in range(num_res_blocks))


class _DownLevel(nn.Module):
    """Residual blocks, then a strided convolution (none at the last level)."""

    def __init__(self, in_channels: int, out_channels: int, *, num_res_blocks: int, temporal_kernel: int,
                 num_groups: int, stride: tuple[int, int, int] | None):
        super().__init__()
        self.blocks = _res_blocks(in_channels, out_channels, num_res_blocks=num_res_blocks,
                                  temporal_kernel=temporal_kernel, num_groups=num_groups)
        self.downsample = stride and CausalConv3d(out_channels, out_channels, stride=stride,
                                                  kernel_size=(temporal_kernel, 3, 3))


class _UpLevel(nn.Module):
    """Adaptive norm, residual blocks, then depth-to-space (none at the finest level)."""

    def __init__(self, in_channels: int, out_channels: int, *, condition_channels: int, num_res_blocks: int,
                 temporal_kernel: int, num_groups: int, stride: tuple[int, int, int] | None):
        super().__init__()
        self.norm = AdaptiveGroupNorm(in_channels, condition_channels=condition_channels, num_groups=num_groups)
        self.blocks = _res_blocks(in_channels, out_channels, num_res_blocks=num_res_blocks,
                                  temporal_kernel=temporal_kernel, num_groups=num_groups)
        self.upsample = stride and DepthToSpaceUpsample(out_channels, stride=stride,
                                                        temporal_kernel=temporal_kernel)


@ENCODERS.register_module()
class MAGVIT2Encoder(Encoder):
    """MAGVIT-v2 encoder: causal 3-D CNN, or its 2-D twin with ``temporal_kernel=1`` (arXiv:2310.05737).

    Args:
        in_channels: C.
        out_channels: d, the quantizer's dim.
        filters: Width of the first level.
        channel_multipliers: Width of each level in ``filters``, from fine to coarse.
        num_res_blocks: Residual blocks per level, and again after the last.
        temporal_downsample: Whether time halves after each level but the last.
        temporal_kernel: k_t of the convolutions, 3 for video and 1 for images.
        num_groups: Of the group norms; a width it does not divide takes its largest divisor below.

    Raises:
        ValueError: If the numbers of levels do not agree, or time is to halve with k_t = 1.

    Example:
        >>> import torch
        >>> encoder = MAGVIT2Encoder(filters=8, channel_multipliers=(1, 2), num_res_blocks=1,
        ...                          temporal_downsample=(True,))
        >>> encoder(torch.zeros(1, 3, 5, 16, 16)).shape, encoder.stride
        (torch.Size([1, 18, 3, 8, 8]), (2, 2, 2))
    """

    first_frame_alone = True
    causal = True

    def __init__(self, *, in_channels: int = 3, out_channels: int = 18, filters: int = 128,
                 channel_multipliers: tuple[int, ...] = (1, 2, 2, 4), num_res_blocks: int = 4,
                 temporal_downsample: tuple[bool, ...] = (False, True, True), temporal_kernel: int = 3,
                 num_groups: int = 32):
        super().__init__()
        strides = _level_strides("MAGVIT2Encoder", channel_multipliers, temporal_downsample)
        if temporal_kernel == 1 and any(temporal_downsample):
            raise ValueError("MAGVIT2Encoder needs temporal_kernel > 1 to halve time, got 1; set every "
                             "temporal_downsample to False or temporal_kernel to 3.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = _total(strides)
        widths = [filters, *(filters * m for m in channel_multipliers)]
        self.conv_in = CausalConv3d(in_channels, filters, kernel_size=(temporal_kernel, 3, 3))
        blocks = {"num_res_blocks": num_res_blocks, "temporal_kernel": temporal_kernel, "num_groups": num_groups}
        self.levels = nn.ModuleList(_DownLevel(widths[i], widths[i + 1], stride=stride, **blocks)
                                    for i, stride in enumerate([*strides, None]))
        self.mid = _res_blocks(widths[-1], widths[-1], **blocks)
        self.norm_out = FrameGroupNorm(widths[-1], num_groups=num_groups)
        self.conv_out = CausalConv3d(widths[-1], out_channels, kernel_size=(1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w) -> latents (B, d, t, h, w)."""
        x = self.conv_in(pixels)
        for level in self.levels:
            for block in level.blocks:
                x = run_block(block, x, activation_checkpointing=self.activation_checkpointing)
            if level.downsample is not None:
                x = level.downsample(x)
        for block in self.mid:
            x = run_block(block, x, activation_checkpointing=self.activation_checkpointing)
        return self.conv_out(F.silu(self.norm_out(x)))


@DECODERS.register_module()
class MAGVIT2Decoder(Decoder):
    """MAGVIT-v2 decoder: the encoder's mirror image, its norms conditioned on the codes (arXiv:2310.05737).

    Args:
        in_channels: d, the quantizer's dim.
        out_channels: C.
        filters, channel_multipliers, num_res_blocks, temporal_downsample, temporal_kernel,
            num_groups: As the encoder's, still from fine to coarse: time doubles where the encoder halves it.

    Raises:
        ValueError: If the numbers of levels do not agree.

    Example:
        >>> import torch
        >>> decoder = MAGVIT2Decoder(filters=8, channel_multipliers=(1, 2), num_res_blocks=1,
        ...                          temporal_downsample=(True,))
        >>> decoder(torch.ones(1, 18, 3, 8, 8)).shape
        torch.Size([1, 3, 5, 16, 16])
    """

    first_frame_alone = True
    causal = True

    def __init__(self, *, in_channels: int = 18, out_channels: int = 3, filters: int = 128,
                 channel_multipliers: tuple[int, ...] = (1, 2, 2, 4), num_res_blocks: int = 4,
                 temporal_downsample: tuple[bool, ...] = (False, True, True), temporal_kernel: int = 3,
                 num_groups: int = 32):
        super().__init__()
        strides = _level_strides("MAGVIT2Decoder", channel_multipliers, temporal_downsample)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = _total(strides)
        coarse_to_fine = [filters * m for m in reversed(channel_multipliers)]
        widths = [coarse_to_fine[0], *coarse_to_fine]
        self.conv_in = CausalConv3d(in_channels, widths[0], kernel_size=(temporal_kernel, 3, 3))
        blocks = {"num_res_blocks": num_res_blocks, "temporal_kernel": temporal_kernel, "num_groups": num_groups}
        self.mid = _res_blocks(widths[0], widths[0], **blocks)
        self.levels = nn.ModuleList(
            _UpLevel(widths[i], widths[i + 1], condition_channels=in_channels, stride=stride, **blocks)
            for i, stride in enumerate([*reversed(strides), None]))
        self.norm_out = FrameGroupNorm(widths[-1], num_groups=num_groups)
        self.conv_out = CausalConv3d(widths[-1], out_channels, kernel_size=(temporal_kernel, 3, 3))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the convolution that makes the pixels."""
        return self.conv_out.weight

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, d, t, h, w) -> pixels (B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w)."""
        x = self.conv_in(codes)
        for block in self.mid:
            x = run_block(block, x, activation_checkpointing=self.activation_checkpointing)
        for level in self.levels:
            x = level.norm(x, codes)
            for block in level.blocks:
                x = run_block(block, x, activation_checkpointing=self.activation_checkpointing)
            if level.upsample is not None:
                x = level.upsample(x)
                codes = repeat_nearest(codes, level.upsample.stride)
        return self.conv_out(F.silu(self.norm_out(x)))

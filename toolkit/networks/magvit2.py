"""The causal encoder and decoder of MAGVIT-v2 (Yu et al., arXiv:2310.05737, fig. 8).

A level is a sequence of residual blocks at one resolution. Between levels space halves, and time where
``temporal_downsample`` is True. With ``temporal_kernel=1`` the same classes are the 2-D networks.

The defaults follow O2-MAGVIT2. The choices of other code bases (Google's praxis, Open-MAGVIT2) are arguments;
``configs/_base_/networks`` has a preset for each, and ``configs/README.md`` lists the differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from toolkit.contracts import Decoder, Encoder
from toolkit.layers import (
    ADAPTIVE_NORMS,
    NORMS,
    PATCHINGS,
    CausalConv3d,
    DepthToSpaceUpsample,
    ResBlock,
    ResidualDownsample,
    ResidualUpsample,
    StreamCache,
    norm_silu_conv,
    repeat_nearest,
    run_block,
)
from toolkit.registry import DECODERS, ENCODERS

Norm = Callable[..., nn.Module]


def _level_strides(who: str, channel_multipliers: tuple[int, ...],
                   temporal_downsample: tuple[bool, ...]) -> list[tuple[int, int, int]]:
    """The stride between each level and the next, from the finest to the coarsest."""
    if len(temporal_downsample) != len(channel_multipliers) - 1:
        raise ValueError(
            f"{who} needs one temporal_downsample entry between each two of its {len(channel_multipliers)} "
            f"levels, got {len(temporal_downsample)}; give {len(channel_multipliers) - 1} of True or False.")
    return [(2 if halve_time else 1, 2, 2) for halve_time in temporal_downsample]


def _total(patch_size: tuple[int, int, int], strides: list[tuple[int, int, int]]) -> tuple[int, ...]:
    return tuple(math.prod(axis) for axis in zip(patch_size, *strides, strict=True))


def _choice(who: str, argument: str, value: str, choices: dict[str, type]) -> type:
    if value not in choices:
        raise ValueError(f"{who} takes {argument} {' or '.join(map(repr, choices))}, got {value!r}.")
    return choices[value]


def _res_blocks(in_channels: int, out_channels: int, *, num_res_blocks: int, temporal_kernel: int, norm: Norm,
                padding: str) -> nn.ModuleList:
    """Residual blocks; the first changes the width."""
    return nn.ModuleList(
        ResBlock(in_channels if i == 0 else out_channels, out_channels, temporal_kernel=temporal_kernel, norm=norm,
                 padding=padding) for i in range(num_res_blocks))


class _DownLevel(nn.Module):
    """Residual blocks, then a strided convolution (none at the last level)."""

    def __init__(self, blocks: nn.ModuleList, downsample: CausalConv3d | ResidualDownsample | None):
        super().__init__()
        self.blocks, self.downsample = blocks, downsample


class _UpLevel(nn.Module):
    """Adaptive norm, residual blocks, then depth-to-space (none at the finest level)."""

    def __init__(self, norm: nn.Module, blocks: nn.ModuleList, upsample: DepthToSpaceUpsample | None):
        super().__init__()
        self.norm, self.blocks, self.upsample = norm, blocks, upsample


@ENCODERS.register_module()
class MAGVIT2Encoder(Encoder):
    """MAGVIT-v2 encoder: causal 3-D CNN, or 2-D with ``temporal_kernel=1`` (arXiv:2310.05737).

    Args:
        in_channels: C.
        out_channels: d, the quantizer's dim.
        filters: Width of the first level.
        channel_multipliers: Width of each level in ``filters``, from fine to coarse.
        num_res_blocks: Residual blocks per level, and again after the last.
        temporal_downsample: Whether time halves after each level but the last.
        temporal_kernel: k_t of the convolutions, 3 for video and 1 for images.
        num_groups: Of the group norms, reduced to the largest divisor of the width.
        norm_scope: "frame": statistics per frame; "position": per position, so that frames may be larger than the
            training crops; "clip": over the clip, which is not causal (Open-MAGVIT2's video model).
        norm_eps: Added to the norms' variances.
        padding: Of the convolutions, "zeros" or "replicate".
        downsample_kernel: k_h = k_w of the strided convolutions, 3 or 4; 4 also adds one to their k_t > 1.
        first_conv_bias: Whether the first convolution has a bias.
        patch_size: Patches of pixels that enter the first convolution as channels: (p_t, p_h, p_w), or p for
            (1, p, p). ``stride`` includes it. At 2 or more no convolution runs at full resolution.
        patching: "haar", wavelet bands (:class:`toolkit.layers.HaarPatching`), or "space_to_depth".
        resample_shortcuts: Whether each downsampling has a shortcut (DC-AE, arXiv:2410.10733, sec. 3.1). The width
            then changes at the downsampling, not in the block after it.

    Raises:
        ValueError: If the numbers of levels disagree, time halves with k_t = 1, an option is unknown, the patching
            does not take ``patch_size``, or widths do not fit the shortcuts.

    Example:
        >>> import torch
        >>> encoder = MAGVIT2Encoder(filters=8, channel_multipliers=(1, 2), num_res_blocks=1,
        ...                          temporal_downsample=(True,))
        >>> encoder(torch.zeros(1, 3, 5, 16, 16)).shape, encoder.stride
        (torch.Size([1, 18, 3, 8, 8]), (2, 2, 2))
    """

    first_frame_alone = True

    def __init__(self, *, in_channels: int = 3, out_channels: int = 18, filters: int = 128,
                 channel_multipliers: tuple[int, ...] = (1, 2, 2, 4), num_res_blocks: int = 4,
                 temporal_downsample: tuple[bool, ...] = (False, True, True), temporal_kernel: int = 3,
                 num_groups: int = 32, norm_scope: str = "frame", norm_eps: float = 1e-5, padding: str = "zeros",
                 downsample_kernel: int = 3, first_conv_bias: bool = True,
                 patch_size: int | tuple[int, int, int] = 1, patching: str = "haar", resample_shortcuts: bool = False):
        super().__init__()
        strides = _level_strides("MAGVIT2Encoder", channel_multipliers, temporal_downsample)
        if temporal_kernel == 1 and any(temporal_downsample):
            raise ValueError("MAGVIT2Encoder needs temporal_kernel > 1 to halve time, got 1; set every "
                             "temporal_downsample to False or temporal_kernel to 3.")
        if downsample_kernel not in (3, 4):
            raise ValueError(f"MAGVIT2Encoder takes downsample_kernel 3 or 4, got {downsample_kernel!r}.")
        norm = partial(_choice("MAGVIT2Encoder", "norm_scope", norm_scope, NORMS), num_groups=num_groups, eps=norm_eps)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.patching = _choice("MAGVIT2Encoder", "patching", patching, PATCHINGS)(patch_size)
        self.stride, self.causal = _total(self.patching.patch_size, strides), norm_scope != "clip"
        widths = [filters * m for m in channel_multipliers]
        widths_in = widths if resample_shortcuts else [filters, *widths[:-1]]  # of the levels' inputs
        res_blocks = partial(_res_blocks, num_res_blocks=num_res_blocks, temporal_kernel=temporal_kernel, norm=norm,
                             padding=padding)
        wider_in_time = downsample_kernel - 3 if temporal_kernel > 1 else 0
        downsample = partial(ResidualDownsample if resample_shortcuts else CausalConv3d, padding=padding, kernel_size=(
            temporal_kernel + wider_in_time, downsample_kernel, downsample_kernel))
        self.conv_in = CausalConv3d(in_channels * math.prod(self.patching.patch_size), widths_in[0],
                                    kernel_size=(temporal_kernel, 3, 3), padding=padding, bias=first_conv_bias)
        self.levels = nn.ModuleList(
            _DownLevel(res_blocks(widths_in[i], widths[i]),
                       stride and downsample(widths[i], widths_in[i + 1], stride=stride))
            for i, stride in enumerate([*strides, None]))
        self.mid = res_blocks(widths[-1], widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, kernel_size=(1, 1, 1))

    def forward(self, pixels: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Pixels (B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w) -> latents (B, d, t, h, w).

        With ``cache``, the next chunk of a stream, of any number of frames -> the latents it completes.
        """
        x = self.conv_in(self.patching(pixels, cache), cache)
        run = partial(run_block, activation_checkpointing=self.activation_checkpointing)
        for number, level in enumerate(self.levels):
            for block in level.blocks:
                x = run(block, x, cache, level=number)
            if level.downsample is not None:
                x = level.downsample(x, cache)
        for block in self.mid:
            x = run(block, x, cache, level=len(self.levels) - 1)
        return norm_silu_conv(self.norm_out, self.conv_out, x, cache)


@DECODERS.register_module()
class MAGVIT2Decoder(Decoder):
    """MAGVIT-v2 decoder: the encoder's mirror image, its norms conditioned on the codes (arXiv:2310.05737).

    Args:
        in_channels: d, the quantizer's dim.
        out_channels: C.
        filters, channel_multipliers, num_res_blocks, temporal_downsample, temporal_kernel, num_groups,
            norm_scope, norm_eps, padding, patch_size, patching: As the encoder's, also from fine to coarse: time
            doubles where the encoder halves it, and patches become pixels after the last convolution.
        adaptive_norm: "position": scale and shift from the codes at each position; "pooled": from
            their mean and deviation over the norm's axes (Open-MAGVIT2).
        kept_frame: Which of the two frames that the first frame becomes where time doubles is kept: "last",
            or "first" (Open-MAGVIT2's video model).
        resample_shortcuts: Whether each upsampling has a shortcut (DC-AE, arXiv:2410.10733, sec. 3.1). The width
            then changes at the upsampling, not in the block after it.

    Raises:
        ValueError: If the numbers of levels disagree, an option is unknown, codes are pooled per position, or per
            frame while time doubles, the patching does not take ``patch_size``, or widths do not fit the shortcuts.

    Example:
        >>> import torch
        >>> decoder = MAGVIT2Decoder(filters=8, channel_multipliers=(1, 2), num_res_blocks=1,
        ...                          temporal_downsample=(True,))
        >>> decoder(torch.ones(1, 18, 3, 8, 8)).shape
        torch.Size([1, 3, 5, 16, 16])
    """

    first_frame_alone = True

    def __init__(self, *, in_channels: int = 18, out_channels: int = 3, filters: int = 128,
                 channel_multipliers: tuple[int, ...] = (1, 2, 2, 4), num_res_blocks: int = 4,
                 temporal_downsample: tuple[bool, ...] = (False, True, True), temporal_kernel: int = 3,
                 num_groups: int = 32, norm_scope: str = "frame", norm_eps: float = 1e-5, padding: str = "zeros",
                 adaptive_norm: str = "position", kept_frame: str = "last",
                 patch_size: int | tuple[int, int, int] = 1, patching: str = "haar", resample_shortcuts: bool = False):
        super().__init__()
        strides = _level_strides("MAGVIT2Decoder", channel_multipliers, temporal_downsample)
        norm = partial(_choice("MAGVIT2Decoder", "norm_scope", norm_scope, NORMS), num_groups=num_groups, eps=norm_eps)
        adaptive = partial(_choice("MAGVIT2Decoder", "adaptive_norm", adaptive_norm, ADAPTIVE_NORMS),
                           condition_channels=in_channels, norm=norm)
        if adaptive_norm == "pooled" and norm_scope == "position":
            raise ValueError("MAGVIT2Decoder cannot pool the codes of a single position; set adaptive_norm='position' "
                             "or another norm_scope.")
        if adaptive_norm == "pooled" and norm_scope == "frame" and any(temporal_downsample):
            raise ValueError("MAGVIT2Decoder cannot pool the codes of a frame where time doubles, since features and "
                             "codes then differ in their number of frames; set norm_scope='clip'.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.patching = _choice("MAGVIT2Decoder", "patching", patching, PATCHINGS)(patch_size)
        self.stride, self.causal = _total(self.patching.patch_size, strides), norm_scope != "clip"
        widths = [filters * m for m in reversed(channel_multipliers)]
        widths_in = widths if resample_shortcuts else [widths[0], *widths[:-1]]  # of the levels' inputs
        conv = partial(CausalConv3d, kernel_size=(temporal_kernel, 3, 3), padding=padding)
        res_blocks = partial(_res_blocks, num_res_blocks=num_res_blocks, temporal_kernel=temporal_kernel, norm=norm,
                             padding=padding)
        upsample = partial(ResidualUpsample if resample_shortcuts else DepthToSpaceUpsample,
                           temporal_kernel=temporal_kernel, padding=padding, kept_frame=kept_frame)
        self.conv_in = conv(in_channels, widths[0])
        self.mid = res_blocks(widths[0], widths[0])
        self.levels = nn.ModuleList(
            _UpLevel(adaptive(widths_in[i]), res_blocks(widths_in[i], widths[i]),
                     stride and upsample(widths[i], out_channels=widths_in[i + 1], stride=stride))
            for i, stride in enumerate([*reversed(strides), None]))
        self.norm_out = norm(widths[-1])
        self.conv_out = conv(widths[-1], out_channels * math.prod(self.patching.patch_size))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the convolution that outputs the pixels."""
        return self.conv_out.weight

    def forward(self, codes: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Codes (B, d, t, h, w) -> pixels (B, C, 1 + (t - 1) * s_t, h * s_h, w * s_w).

        With ``cache``, the next chunk of a stream -> its pixels.
        """
        codes = codes.contiguous(memory_format=torch.channels_last_3d)
        x = self.conv_in(codes, cache)
        run, coarsest = partial(run_block, activation_checkpointing=self.activation_checkpointing), len(self.levels) - 1
        for block in self.mid:
            x = run(block, x, cache, level=coarsest)
        for number, level in enumerate(self.levels):
            x = run(level.norm, x, codes, level=coarsest - number)
            for block in level.blocks:
                x = run(block, x, cache, level=coarsest - number)
            if level.upsample is not None:
                if level.norm.per_position:  # the codes need the features' grid
                    codes = repeat_nearest(codes, level.upsample.stride, level.upsample.next_kept_frame(cache))
                x = level.upsample(x, cache)
        return self.patching.inverse(norm_silu_conv(self.norm_out, self.conv_out, x, cache), cache)

"""The encoder and decoder of VQGAN (Esser et al., arXiv:2012.09841), as in LlamaGen and taming-transformers.

They are 2-D: each frame is encoded alone. The 1x1 convolutions around the quantizer (``quant_conv`` and
``post_quant_conv``) belong to them.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Decoder, Encoder
from toolkit.layers import (
    CausalConv3d,
    FrameAttention,
    FrameGroupNorm,
    ResBlock,
    StreamCache,
    norm_silu_conv,
    repeat_nearest,
    run_block,
)
from toolkit.registry import DECODERS, ENCODERS

_conv3x3 = partial(CausalConv3d, kernel_size=(1, 3, 3))
_conv1x1 = partial(CausalConv3d, kernel_size=(1, 1, 1))


def _attention_levels(who: str, channel_multipliers: tuple[int, ...],
                      attention: tuple[bool, ...] | None) -> tuple[bool, ...]:
    """Whether each level, from fine to coarse, has attention; by default only the coarsest."""
    if attention is None:
        return (False,) * (len(channel_multipliers) - 1) + (True,)
    if len(attention) != len(channel_multipliers):
        raise ValueError(f"{who} needs one attention entry for each of its {len(channel_multipliers)} levels, got "
                         f"{len(attention)}.")
    return tuple(attention)


class _Downsample(nn.Module):
    """3x3 convolution of stride 2, padded by one row and column at the end only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, (1, 3, 3), stride=(1, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    """Repetition to twice the side, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = _conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(repeat_nearest(x, (1, 2, 2)))


class _Level(nn.Module):
    """Residual blocks, each followed by attention if ``attends``, then a change of resolution."""

    def __init__(self, in_channels: int, out_channels: int, *, num_res_blocks: int, attends: bool, norm: partial,
                 resample: type[nn.Module] | None):
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(in_channels if i == 0 else out_channels, out_channels, temporal_kernel=1, bias=True, norm=norm)
            for i in range(num_res_blocks))
        self.attentions = nn.ModuleList(FrameAttention(out_channels, norm=norm) for _ in self.blocks if attends)
        self.resample = resample and resample(out_channels)

    def layers(self) -> list[nn.Module]:
        """All layers in the order of use."""
        pairs = zip_longest(self.blocks, self.attentions)
        return [layer for layer in (*chain(*pairs), self.resample) if layer is not None]


def _middle(channels: int, norm: partial) -> nn.ModuleList:
    """Residual block, attention, residual block at the coarsest resolution."""
    block = partial(ResBlock, channels, channels, temporal_kernel=1, bias=True, norm=norm)
    return nn.ModuleList([block(), FrameAttention(channels, norm=norm), block()])


@ENCODERS.register_module()
class VQGANEncoder(Encoder):
    """VQGAN encoder: 2-D residual blocks, attention at the coarsest level (arXiv:2012.09841, app. A).

    Args:
        in_channels: C.
        out_channels: d, the quantizer's dim.
        filters: Width of the first convolution.
        channel_multipliers: Width of each level in ``filters``, from fine to coarse; each but the last
            ends by halving the side.
        num_res_blocks: Residual blocks per level.
        z_channels: Width before the 1x1 convolution to d.
        attention: Whether the blocks of each level are followed by attention; None: only of the coarsest.
        num_groups, norm_eps: Of the group norms.

    Raises:
        ValueError: If ``attention`` has not one entry per level.

    Example:
        >>> import torch
        >>> encoder = VQGANEncoder(out_channels=4, filters=8, channel_multipliers=(1, 2), z_channels=16)
        >>> encoder(torch.zeros(1, 3, 1, 16, 16)).shape, encoder.stride
        (torch.Size([1, 4, 1, 8, 8]), (1, 2, 2))
    """

    first_frame_alone = True
    causal = True

    def __init__(self, *, in_channels: int = 3, out_channels: int = 8, filters: int = 128,
                 channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4), num_res_blocks: int = 2,
                 z_channels: int = 256, attention: tuple[bool, ...] | None = None, num_groups: int = 32,
                 norm_eps: float = 1e-6):
        super().__init__()
        attends = _attention_levels("VQGANEncoder", channel_multipliers, attention)
        norm = partial(FrameGroupNorm, num_groups=num_groups, eps=norm_eps)
        last = len(channel_multipliers) - 1
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (1, 2**last, 2**last)
        widths = [filters, *(filters * m for m in channel_multipliers)]
        self.conv_in = _conv3x3(in_channels, filters)
        self.levels = nn.ModuleList(
            _Level(widths[i], widths[i + 1], num_res_blocks=num_res_blocks, attends=attends[i], norm=norm,
                   resample=_Downsample if i < last else None) for i in range(last + 1))
        self.mid = _middle(widths[-1], norm)
        self.norm_out = norm(widths[-1])
        self.conv_out = _conv3x3(widths[-1], z_channels)
        self.quant_conv = _conv1x1(z_channels, out_channels)

    def forward(self, pixels: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Pixels (B, C, T, h * s_h, w * s_w) -> latents (B, d, T, h, w); the cache is unused."""
        x = self.conv_in(pixels.contiguous(memory_format=torch.channels_last_3d))
        run, coarsest = partial(run_block, activation_checkpointing=self.activation_checkpointing), len(self.levels) - 1
        for number, level in enumerate(self.levels):
            for layer in level.layers():
                x = run(layer, x, level=number)
        for layer in self.mid:
            x = run(layer, x, level=coarsest)
        return self.quant_conv(norm_silu_conv(self.norm_out, self.conv_out, x))


@DECODERS.register_module()
class VQGANDecoder(Decoder):
    """VQGAN decoder: the encoder's mirror image (arXiv:2012.09841, app. A).

    Args:
        in_channels: d, the quantizer's dim.
        out_channels: C.
        filters, channel_multipliers, z_channels, attention, num_groups, norm_eps: As the encoder's, also
            from fine to coarse.
        num_res_blocks: Residual blocks per level; published decoders have one more than their encoder.

    Raises:
        ValueError: If ``attention`` has not one entry per level.

    Example:
        >>> import torch
        >>> decoder = VQGANDecoder(in_channels=4, filters=8, channel_multipliers=(1, 2), z_channels=16)
        >>> decoder(torch.zeros(1, 4, 1, 8, 8)).shape
        torch.Size([1, 3, 1, 16, 16])
    """

    first_frame_alone = True
    causal = True

    def __init__(self, *, in_channels: int = 8, out_channels: int = 3, filters: int = 128,
                 channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4), num_res_blocks: int = 3,
                 z_channels: int = 256, attention: tuple[bool, ...] | None = None, num_groups: int = 32,
                 norm_eps: float = 1e-6):
        super().__init__()
        attends = _attention_levels("VQGANDecoder", channel_multipliers, attention)[::-1]
        norm = partial(FrameGroupNorm, num_groups=num_groups, eps=norm_eps)
        last = len(channel_multipliers) - 1
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (1, 2**last, 2**last)
        coarse_to_fine = [filters * m for m in reversed(channel_multipliers)]
        widths = [coarse_to_fine[0], *coarse_to_fine]
        self.post_quant_conv = _conv1x1(in_channels, z_channels)
        self.conv_in = _conv3x3(z_channels, widths[0])
        self.mid = _middle(widths[0], norm)
        self.levels = nn.ModuleList(
            _Level(widths[i], widths[i + 1], num_res_blocks=num_res_blocks, attends=attends[i], norm=norm,
                   resample=_Upsample if i < last else None) for i in range(last + 1))
        self.norm_out = norm(widths[-1])
        self.conv_out = _conv3x3(widths[-1], out_channels)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the convolution that outputs the pixels."""
        return self.conv_out.weight

    def forward(self, codes: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Codes (B, d, T, h, w) -> pixels (B, C, T, h * s_h, w * s_w); the cache is unused."""
        x = self.conv_in(self.post_quant_conv(codes.contiguous(memory_format=torch.channels_last_3d)))
        run, coarsest = partial(run_block, activation_checkpointing=self.activation_checkpointing), len(self.levels) - 1
        for layer in self.mid:
            x = run(layer, x, level=coarsest)
        for number, level in enumerate(self.levels):
            for layer in level.layers():
                x = run(layer, x, level=coarsest - number)
        return norm_silu_conv(self.norm_out, self.conv_out, x)

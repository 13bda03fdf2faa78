"""A small decoder for encoders that halve only space."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from toolkit import Decoder
from toolkit.layers import (
    CausalConv3d,
    DepthToSpaceUpsample,
    FrameGroupNorm,
    ResBlock,
    StreamCache,
    norm_silu_conv,
    run_block,
)


class TimmDecoder(Decoder):
    """A convolution, then a residual block and a pixel shuffle for every halving of the encoder.

    Frames are decoded one by one. The blocks are MAGVIT-v2's (arXiv:2310.05737, fig. 8) without time,
    the pixel shuffle is that of arXiv:1609.05158.

    Args:
        in_channels: d, the quantizer's dim.
        out_channels: C.
        filters: Width at the pixels.
        channel_multipliers: Width of each level in ``filters``, from fine to coarse; each but the last
            stands for one doubling of the side, so four of them mirror a reduction of 8.
        num_groups: Of the group norms.

    Example:
        >>> import torch
        >>> decoder = TimmDecoder(in_channels=6, filters=8, channel_multipliers=(1, 2, 2, 4))
        >>> decoder(torch.zeros(1, 6, 5, 2, 4)).shape, decoder.stride
        (torch.Size([1, 3, 5, 16, 32]), (1, 8, 8))
    """

    first_frame_alone = True
    causal = True

    def __init__(self, *, in_channels: int = 18, out_channels: int = 3, filters: int = 32,
                 channel_multipliers: tuple[int, ...] = (1, 2, 4, 4), num_groups: int = 32):
        super().__init__()
        widths = [filters * multiplier for multiplier in reversed(channel_multipliers)]
        norm, side = partial(FrameGroupNorm, num_groups=num_groups), 2 ** (len(widths) - 1)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (1, side, side)
        self.conv_in = CausalConv3d(in_channels, widths[0], kernel_size=(1, 3, 3))
        self.blocks = nn.ModuleList(
            ResBlock(before, after, temporal_kernel=1, norm=norm)
            for before, after in zip([widths[0], *widths], widths, strict=False))
        self.upsamples = nn.ModuleList(
            DepthToSpaceUpsample(width, stride=(1, 2, 2), temporal_kernel=1) for width in widths[:-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, kernel_size=(1, 3, 3))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the convolution that makes the pixels."""
        return self.conv_out.weight

    def forward(self, codes: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Codes (B, d, T, h, w) -> pixels (B, C, T, h * s, w * s); a stream needs no cache."""
        x = self.conv_in(codes)
        for block, upsample in zip(self.blocks, [*self.upsamples, nn.Identity()], strict=True):
            x = upsample(run_block(block, x, activation_checkpointing=self.activation_checkpointing))
        return norm_silu_conv(self.norm_out, self.conv_out, x)

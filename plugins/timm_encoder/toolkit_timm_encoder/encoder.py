"""The encoder on a timm backbone's features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor

from toolkit import Encoder
from toolkit.layers import CausalConv3d, StreamCache
from toolkit_timm_encoder.features import TimmFeatures


class TimmEncoder(Encoder):
    """A timm backbone's feature map of every frame, then a 1x1 convolution to d channels.

    Frames are encoded one by one, so the encoder is causal and its stride is (1, s, s), with s the
    backbone's reduction at the level. Batch norms use their stored statistics also in training, since
    latents may not depend on the rest of their batch; with random weights those are of no data, mean 0 and
    variance 1, and a backbone without batch norms (``convnext_atto``) is the better choice.

    Args:
        out_channels: d, the quantizer's dim.
        in_channels: C.
        backbone, level, weights, arguments: As :class:`~toolkit_timm_encoder.TimmFeatures`'s.
        trainable: Whether the backbone learns; the convolution always does.

    Raises:
        ValueError: As :class:`~toolkit_timm_encoder.TimmFeatures` does.

    Example:
        >>> import torch
        >>> encoder = TimmEncoder(backbone="resnet18", level=2, out_channels=6)
        >>> encoder(torch.zeros(1, 3, 5, 16, 32)).shape, encoder.stride
        (torch.Size([1, 6, 5, 2, 4]), (1, 8, 8))
    """

    first_frame_alone = True
    causal = True

    def __init__(self, *, out_channels: int = 18, in_channels: int = 3, backbone: str = "resnet18", level: int = -1,
                 weights: str | Path | None = None, arguments: Mapping[str, Any] | None = None,
                 trainable: bool = True):
        super().__init__()
        self.features = TimmFeatures(backbone, level=level, in_channels=in_channels, weights=weights,
                                     arguments=arguments).requires_grad_(trainable)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = (1, self.features.reduction, self.features.reduction)
        self.conv_out = CausalConv3d(self.features.channels, out_channels, kernel_size=(1, 1, 1))

    @property
    def config(self) -> dict[str, Any]:
        """The config without ``weights``, since a saved tokenizer has its own."""
        return super().config | {"weights": None}

    def forward(self, pixels: Tensor, cache: StreamCache | None = None) -> Tensor:
        """Pixels (B, C, T, h * s, w * s) -> latents (B, d, T, h, w); a stream needs no cache."""
        features = self.features(rearrange(pixels, "b c t h w -> (b t) c h w"))
        return self.conv_out(rearrange(features, "(b t) c h w -> b c t h w", b=len(pixels)))

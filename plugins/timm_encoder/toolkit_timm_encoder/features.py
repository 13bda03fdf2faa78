"""One feature map of a timm backbone (Wightman, github.com/huggingface/pytorch-image-models)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from toolkit.pretrained import classifier


class TimmFeatures(nn.Module):
    """Features of one level of a timm backbone, in timm's ``features_only`` form.

    The backbone is always in eval mode, whatever ``train()`` is called on its parent: batch norms use their
    stored statistics, so that no frame's features depend on its batch. Its parameters may still learn.

    Args:
        backbone: A name of timm's, such as ``"resnet18"``.
        level: Which of the backbone's feature maps, from fine to coarse; negative ones count from the end.
        in_channels: C. If it is not 3, timm adapts the weights of the first convolution.
        weights: A file with the state dict of exactly timm's classifier of that name, or an asset of the
            toolkit's such as ``"weights/efficientnet_lite0"``; None: random ones. Nothing is fetched but assets.
        arguments: Further ones of ``timm.create_model``, such as ``dict(dynamic_img_size=True)`` for a ViT.

    Attributes:
        channels: Of the features.
        reduction: Rows and columns of pixels that a row and a column of features stand for.

    Raises:
        ValueError: If timm has no such backbone or level, it gives no feature maps, or the weights do not fit.

    Example:
        >>> features = TimmFeatures("resnet18", level=1)
        >>> features(torch.zeros(2, 3, 32, 48)).shape, features.channels, features.reduction
        (torch.Size([2, 64, 8, 12]), 64, 4)
    """

    def __init__(self, backbone: str, *, level: int = -1, in_channels: int = 3, weights: str | Path | None = None,
                 arguments: Mapping[str, Any] | None = None):
        super().__init__()
        if not timm.is_model(backbone):
            near = difflib.get_close_matches(backbone, timm.list_models(), n=3)
            raise ValueError(f"timm has no backbone {backbone!r}; did you mean {' or '.join(near) or 'another'}?")
        pretrained = {}
        if weights is not None:  # read strictly as a whole; timm then keeps the layers below the level
            state = classifier(backbone, weights=weights).network.model.state_dict()
            pretrained = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
        try:
            self.backbone = timm.create_model(backbone, features_only=True, out_indices=(level,), in_chans=in_channels,
                                              **pretrained, **(arguments or {})).eval()
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
            raise ValueError(f"timm cannot make {backbone!r} into features of level {level} with "
                             f"{dict(arguments or {})}; choose another level or backbone. {error}") from error
        self.channels, = self.backbone.feature_info.channels()
        self.reduction, = self.backbone.feature_info.reduction()
        statistics = self.backbone.pretrained_cfg
        for name in ("mean", "std"):  # of [0, 1] pixels; further channels repeat them, as timm repeats weights
            values = statistics[name] * math.ceil(in_channels / len(statistics[name]))
            self.register_buffer(name, torch.tensor(values[:in_channels]), persistent=False)

    def train(self, mode: bool = True) -> TimmFeatures:
        """As a module's, but the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, C, H, W) in [-1, 1] -> features (N, channels, H / reduction, W / reduction)."""
        unit = (frames + 1) / 2
        features, = self.backbone((unit - self.mean[:, None, None]) / self.std[:, None, None])
        return features

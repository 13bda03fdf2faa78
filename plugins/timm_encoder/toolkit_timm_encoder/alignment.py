"""Latents that keep the geometry of a frozen network's features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit import Loss, TokenizerOutput
from toolkit.pretrained import Frozen
from toolkit_timm_encoder.features import TimmFeatures


class FeatureAlignment(Loss):
    """Alignment of the latents to a frozen timm backbone's features (VA-VAE, arXiv:2501.01423).

    Of VA-VAE's two terms it is the marginal distance matrix similarity: within a frame, the cosine
    similarity of the latents at any two positions is to be that of the target's features there, up to a
    margin. The other term compares latents with features directly and needs a learned projection between
    their widths; this loss has none, so that term is omitted.

    Where features and latents have other grids, the features are averaged to the latents'; of the frames
    that a latent stands for, the last is taken. The backbone is frozen, is in no checkpoint, and runs in
    float32. The gradient reaches the latents only, so the loss goes beside one on the reconstruction.

    Args:
        backbone, weights, level, arguments: As :class:`~toolkit_timm_encoder.TimmFeatures`'s; there is nothing to
            align to in random weights, so they are required.
        margin: Differences up to it cost nothing.

    Raises:
        ValueError: If the margin is negative, or as :class:`~toolkit_timm_encoder.TimmFeatures` does.

    Example:
        >>> loss = FeatureAlignment(backbone="tf_efficientnet_lite0", weights="weights/efficientnet_lite0", level=1)
        >>> x = torch.rand(1, 3, 1, 16, 16)
        >>> features = loss.features(x[:, :, 0]).unsqueeze(2)   # latents that are the features keep their geometry
        >>> loss(TokenizerOutput(x, features, features, None), x).item()
        0.0
    """

    def __init__(self, *, backbone: str, weights: str | Path, level: int = -1,
                 arguments: Mapping[str, Any] | None = None, margin: float = 0.25):
        super().__init__()
        if margin < 0:
            raise ValueError(f"FeatureAlignment takes a margin from 0 on, got {margin}.")
        self.features = Frozen(TimmFeatures(backbone, level=level, weights=weights, arguments=arguments))
        self.margin = margin

    def forward(self, output: TokenizerOutput, target: Tensor) -> Tensor:
        """Mean over frames and pairs of positions, for latents (B, d, t, h, w) and target (B, 3, T, H, W) -> ()."""
        num_latents, h, w = output.latents.shape[2:]
        # frame 0 for the first latent, the last frame for the last: exactly where the first frame stands alone
        frames = torch.linspace(0, target.shape[2] - 1, num_latents, device=target.device).round().long()
        with torch.no_grad():
            features = self.features(rearrange(target[:, :, frames], "b c t h w -> (b t) c h w"))
            target_similarities = _similarities(F.adaptive_avg_pool2d(features, (h, w)))
        similarities = _similarities(rearrange(output.latents, "b d t h w -> (b t) d h w"))
        return F.relu((similarities - target_similarities).abs() - self.margin).mean()


def _similarities(maps: Tensor) -> Tensor:
    """Maps (N, c, h, w) -> cosine similarities of all pairs of positions (N, h * w, h * w) float32."""
    with torch.autocast(maps.device.type, enabled=False):
        units = F.normalize(rearrange(maps.float(), "n c h w -> n (h w) c"), dim=-1)
        return units @ units.mT

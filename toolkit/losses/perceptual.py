"""Distances of frames in the features of frozen 2-D networks."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Loss, TokenizerOutput
from toolkit.layers.early_gradient import loss_with_early_gradient
from toolkit.pretrained import classifier, lpips_network
from toolkit.registry import LOSSES

PIXELS_AT_ONCE = 2**19  # pixels whose features are stored at once: 32 frames of 128 x 128, or 8 of 256 x 256


def _frames(pixels: Tensor) -> Tensor:
    return rearrange(pixels.float(), "b c t h w -> (b t) c h w")


def _random_frames(count: int, *clips: Tensor) -> list[Tensor]:
    """``count`` random frames of each clip (B, C, T, H, W), none twice, the same of all ``clips``."""
    batch, channels, length, height, width = clips[0].shape
    chosen = torch.rand(batch, length, device=clips[0].device).argsort(1)[:, :count]  # (B, count)
    index = chosen[:, None, :, None, None].expand(batch, channels, count, height, width)
    return [clip.gather(2, index) for clip in clips]


@LOSSES.register_module()
class LPIPS(Loss):
    """Learned perceptual distance of the frames, v0.1 (Zhang et al., arXiv:1801.03924).

    The network is frozen, is in no checkpoint, and computes in float32. The target gets no gradient.

    Args:
        net: ``"vgg"``, usual in training, or ``"alex"``, usual in reports.
        frames_per_clip: Frames of each clip that are compared, drawn at random at each call, as in TATS
            (arXiv:2204.03638); a clip of fewer frames is compared whole. None: all frames.

    Raises:
        ValueError: If ``net`` is another name, ``frames_per_clip`` is below 1, or a side of the frames is below 16
            (``"vgg"``) or 31 (``"alex"``).

    Example:
        >>> black, white = -torch.ones(1, 3, 2, 64, 64), torch.ones(1, 3, 2, 64, 64)
        >>> round(LPIPS(net="alex")(TokenizerOutput(black, black, black, None), white).item(), 4)
        0.814
    """

    def __init__(self, *, net: str = "vgg", frames_per_clip: int | None = None):
        super().__init__()
        if frames_per_clip is not None and frames_per_clip < 1:
            raise ValueError(f"LPIPS: frames_per_clip must be at least 1, or None for all frames, "
                             f"got {frames_per_clip}")
        self.network = lpips_network(net)
        self.frames_per_clip = frames_per_clip

    def forward(self, output: TokenizerOutput, target: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> mean distance over the compared frames, () float32."""
        reconstruction, target = output.reconstruction, target.detach()
        if self.frames_per_clip is not None and self.frames_per_clip < target.shape[2]:
            reconstruction, target = _random_frames(self.frames_per_clip, reconstruction, target)
        frames, target_frames = _frames(reconstruction), _frames(target)
        at_once = max(1, PIXELS_AT_ONCE // (frames.shape[2] * frames.shape[3]))
        distances = [loss_with_early_gradient(
                        lambda chunk, target_chunk=target_chunk: self.network(chunk, target_chunk).sum(), chunk)
                     for chunk, target_chunk in zip(frames.split(at_once), target_frames.split(at_once), strict=True)]
        return sum(distances) / len(frames)


@LOSSES.register_module()
class LogitDistance(Loss):
    """Mean squared distance of a frozen classifier's logits (MAGVIT, arXiv:2212.05199).

    MAGVIT uses a ResNet-50, O2-MAGVIT2 a VGG-16 at 224 pixels. The target gets no gradient.

    Args:
        backbone: A timm model name, such as ``"tf_efficientnet_lite0"``.
        weights: An asset (``"weights/efficientnet_lite0"``) or a local file with this backbone's state dict.
        size: Frames are resized to size x size (bilinear, antialiased); None: not resized.

    Raises:
        ValueError: If timm has no such backbone, the file does not exist, or its tensors do not fit.

    Example:
        >>> loss = LogitDistance(backbone="tf_efficientnet_lite0", weights="weights/efficientnet_lite0",
        ...                      size=64)
        >>> x = torch.zeros(1, 3, 1, 32, 32)
        >>> loss(TokenizerOutput(x, x, x, None), x).item()
        0.0
    """

    def __init__(self, *, backbone: str, weights: str | Path, size: int | None = 224):
        super().__init__()
        self.network = classifier(backbone, weights=weights)
        self.size = size

    def forward(self, output: TokenizerOutput, target: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> () float32 >= 0."""
        with torch.no_grad():
            target_logits = self._logits(target)
        return F.mse_loss(self._logits(output.reconstruction), target_logits)

    def _logits(self, pixels: Tensor) -> Tensor:
        frames = _frames(pixels)
        if self.size is not None and frames.shape[2:] != (self.size, self.size):
            frames = F.interpolate(frames, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network(frames)  # (B * T, classes)

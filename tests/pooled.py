"""Metrics of 4 x 4 thumbnails, for what does not depend on the network, and what tests of scores share."""

import numpy as np
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from toolkit.metrics.kernel import WithKernelDistance


class Thumbnails(WithKernelDistance):
    name, kernel_name, dim = "pooled", "kernel", 48
    higher_is_better = {"pooled": False, "kernel": False}

    def __init__(self):
        super().__init__(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()))

    def samples(self, clips):
        return clips.transpose(1, 2).flatten(0, 1)


class FewThumbnails(Thumbnails):
    """Of which only five stay."""

    kept = 5


def pair(*shape: int, noise: float = 0.3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator) * 1.6 - 0.8
    return {"target": target, "reconstruction": target + noise * torch.randn(shape, generator=generator)}


def part_of(batch: dict[str, torch.Tensor], part: slice | list[int]) -> dict[str, torch.Tensor]:
    return {name: tensor[part] for name, tensor in batch.items()}


def features(metric: WithKernelDistance, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(metric.network(metric.samples(batch[name].clamp(-1, 1))) for name in ("target", "reconstruction"))


def score(metric, target: torch.Tensor, reconstruction: torch.Tensor) -> float:
    """The score of one batch."""
    metric.reset()
    metric.update(target=target, reconstruction=reconstruction)
    return metric.compute()[metric.name]


def noisy(pixels: torch.Tensor, amount: float) -> torch.Tensor:
    """With noise that is the same in every call."""
    return (pixels + amount * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


def photo(height: int = 300, width: int = 451) -> torch.Tensor:
    """A frame (1, 3, 1, H, W) in [-1, 1] of a cat."""
    return (torch.from_numpy(data.chelsea()).permute(2, 0, 1)[:, :height, :width] / 127.5 - 1)[None, :, None]


def crops(height: int, width: int) -> torch.Tensor:
    """Two clips of two frames, (2, 3, 2, H, W) in [-1, 1]."""
    return torch.cat([torch.cat([photo()[..., y:y + height, x:x + width] for x in (60, 180)], 2) for y in (40, 140)])


def scores_by_scikit_image(target: torch.Tensor, reconstruction: torch.Tensor) -> dict[str, float]:
    """PSNR and SSIM of clips (B, 3, T, H, W), the mean over frames."""
    frames = [((x.clamp(-1, 1) + 1) / 2).movedim(1, -1).flatten(0, 1).double().numpy()
              for x in (target, reconstruction)]
    pairs = list(zip(*frames, strict=True))
    return {"psnr": np.mean([peak_signal_noise_ratio(one, other, data_range=1.0) for one, other in pairs]),
            "ssim": np.mean([structural_similarity(one, other, data_range=1.0, channel_axis=2, gaussian_weights=True,
                                                   sigma=1.5, use_sample_covariance=False) for one, other in pairs])}

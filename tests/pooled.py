"""Frames by their 4 x 4 thumbnails, for what does not depend on the network."""

import torch
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

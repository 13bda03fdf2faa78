"""Building blocks of Google's two Inception networks, whose normalisation has a shift but no scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalize(nn.Module):
    """Batch normalisation with the training set's statistics and a shift, eps 1e-3: (N, channels, ...), same shape."""

    def __init__(self, channels: int):
        super().__init__()
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, bias=self.beta, eps=1e-3)


class Branches(nn.ModuleList):
    """Modules side by side; their outputs are concatenated along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


def normalized(convolution: nn.Module) -> nn.Sequential:
    """Convolution, :class:`Normalize`, ReLU. The tensors have the published order: kernel, beta, mean, var."""
    return nn.Sequential(convolution, Normalize(convolution.out_channels), nn.ReLU(inplace=True))

"""What Google's two Inception networks are made of; their convolutions train a shift, but no scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalize(nn.Module):
    """Batch normalization of the training set's statistics, with a shift, without a scale, eps 1e-3.

    Example:
        >>> Normalize(2)(torch.ones(1, 2, 1, 1)).shape
        torch.Size([1, 2, 1, 1])
    """

    def __init__(self, channels: int):
        super().__init__()
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, ...) -> the same shape."""
        return F.batch_norm(x, self.mean, self.var, bias=self.beta, eps=1e-3)


class Branches(nn.ModuleList):
    """Modules side by side, their outputs concatenated along the channels.

    Example:
        >>> Branches([nn.Identity(), nn.ReLU()])(-torch.ones(1, 1, 1, 1)).flatten().tolist()
        [-1.0, 0.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, ...) -> (N, sum of the branches' channels, ...)."""
        return torch.cat([branch(x) for branch in self], dim=1)


def normalized(convolution: nn.Module) -> nn.Sequential:
    """A convolution without bias, :class:`Normalize`, ReLU.

    Its tensors come in the order kernel, beta, mean, var, which is that of the published files.

    Example:
        >>> list(normalized(nn.Conv2d(3, 8, 1, bias=False)).state_dict())
        ['0.weight', '1.beta', '1.mean', '1.var']
    """
    return nn.Sequential(convolution, Normalize(convolution.out_channels), nn.ReLU(inplace=True))

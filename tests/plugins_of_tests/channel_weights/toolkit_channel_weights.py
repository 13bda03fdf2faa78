"""A squared error whose channel weights are learned as log variances (arXiv:1705.07115)."""

import torch
from torch import Tensor, nn

from toolkit import Loss


class ChannelWeights(Loss):
    """mean(exp(-s) * error + s), with one s per channel."""

    def __init__(self, *, channels: int = 3):
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(channels))

    def forward(self, output, target: Tensor) -> Tensor:
        errors = (output.reconstruction.float() - target).square().mean((0, 2, 3, 4))
        return (errors * (-self.log_variances).exp() + self.log_variances).mean()

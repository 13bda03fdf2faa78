"""Batch normalisation over the global batch of all processes, on any device."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from toolkit.layers.distributed import mean_over_processes, num_processes


class JointBatchNorm(nn.BatchNorm3d):
    """Batch normalisation (Ioffe & Szegedy, arXiv:1502.03167) over the global batch of all processes.

    On one process, and in eval mode, it is torch's BatchNorm3d. On several it equals torch's SyncBatchNorm, but works
    on CPUs and is twice differentiable; it then needs batches of one shape, affine=True, running statistics and a
    number as ``momentum``, the weight of the newest batch in the running mean and the (unbiased) running variance.

    Example:
        >>> norm = JointBatchNorm(1)
        >>> norm(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1)).flatten().round(decimals=4).tolist()
        [-1.0, 1.0]
        >>> round(norm.running_mean.item(), 4), round(norm.running_var.item(), 4)   # 0.1 * 2, 0.9 * 1 + 0.1 * 2
        (0.2, 1.1)
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape and dtype; statistics are float32 or wider.

        Raises:
            ValueError: In training on one process, if the batch has a single value per channel.
        """
        if not self.training or num_processes() == 1:
            return super().forward(x)
        x_float = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = mean_over_processes(x_float.mean((0, 2, 3, 4)))  # (C,)
        # Centred first: mean(x^2) - mean(x)^2 would lose the digits of a small variance.
        centred = x_float - rearrange(mean, "c -> c 1 1 1")
        variance = mean_over_processes(centred.square().mean((0, 2, 3, 4)))  # (C,), biased
        self._update_running(mean, variance, count=num_processes() * x.numel() // x.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * rearrange(scale, "c -> c 1 1 1") + rearrange(self.bias, "c -> c 1 1 1")).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Update the running statistics with a batch of ``count`` values per channel."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)

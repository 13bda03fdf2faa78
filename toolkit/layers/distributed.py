"""Averages over the processes of a run that keep their gradient."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes, whose gradient is summed over processes too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of ``x`` (any shape) over processes, with its gradient; ``x`` itself on one process.

    With data-parallel training, which averages gradients over processes, a loss of this mean gives
    every process the gradient of the joined batch.

    Example:
        >>> mean_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    return _SumOverProcesses.apply(x) / dist.get_world_size()

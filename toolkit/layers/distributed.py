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
        return _SumOverProcesses.apply(gradient)  # with a gradient again, for penalties on gradients


def num_processes() -> int:
    """How many processes train together; 1 outside of distributed training.

    Example:
        >>> num_processes()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of ``x`` (any shape) over processes, with its gradient; ``x`` itself on one process.

    With data-parallel training, which averages gradients over processes, a loss of this mean gives
    every process the gradient of the joined batch.

    Example:
        >>> mean_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    if num_processes() == 1:
        return x
    return _SumOverProcesses.apply(x) / num_processes()

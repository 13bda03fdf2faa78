"""Sums, averages and gathering over the processes of a run; the only ones of the toolkit."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes; the gradient is summed over processes too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradient)  # differentiable again, for gradient penalties


def num_processes() -> int:
    """How many processes train together; 1 outside of distributed training.

    Example:
        >>> num_processes()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of ``x`` (any shape) over processes, with its gradient; ``x`` itself on one process.

    Example:
        >>> sum_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    return _SumOverProcesses.apply(x) if num_processes() > 1 else x


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of ``x`` (any shape) over processes, with its gradient; ``x`` itself on one process.

    Data-parallel training averages gradients over processes, so a loss of this mean has the gradient of the
    joint batch.

    Example:
        >>> mean_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    return sum_over_processes(x) / num_processes() if num_processes() > 1 else x


@torch.no_grad()
def gather_over_processes(x: Tensor) -> Tensor:
    """The rows of ``x`` (N, ...) of all processes in rank order, without gradient; N may differ per process.

    Example:
        >>> gather_over_processes(torch.tensor([[1.0], [2.0]])).flatten().tolist()
        [1.0, 2.0]
    """
    if num_processes() == 1:
        return x.detach()
    sizes = [torch.zeros((), dtype=torch.int64, device=x.device) for _ in range(num_processes())]
    dist.all_gather(sizes, torch.tensor(len(x), device=x.device))
    padded = x.new_zeros(int(max(sizes)), *x.shape[1:])
    padded[:len(x)] = x
    shares = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(shares, padded)
    return torch.cat([share[:int(size)] for share, size in zip(shares, sizes, strict=True)])


def reduction_device() -> torch.device:
    """Where tensors must be for the process group to reduce them: by its backend, as a process may have no batch."""
    uses_gpus = num_processes() > 1 and "nccl" in dist.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if uses_gpus else torch.device("cpu")


def sum_numbers_over_processes(values: list[float]) -> list[float]:
    """The float64 sums of every process's values."""
    if num_processes() == 1:
        return values
    return sum_over_processes(torch.tensor(values, dtype=torch.float64, device=reduction_device())).tolist()


def gather_objects_over_processes(value: Any) -> list[Any]:
    """Every process's value, which can be pickled, in the order of their ranks."""
    values = [value]
    if num_processes() > 1:
        values = [None] * num_processes()
        dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def from_first_process(x: Tensor) -> Tensor:
    """The ``x`` of process 0, for random draws that all processes share; same shape everywhere.

    Example:
        >>> from_first_process(torch.tensor(3)).item()
        3
    """
    if num_processes() > 1:
        x = x.clone()
        dist.broadcast(x, src=0)
    return x

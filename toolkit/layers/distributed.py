"""Sum, mean, gather and broadcast over the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_is_alone = False  # whether as_one_process is active


@contextmanager
def as_one_process() -> Iterator[None]:
    """Context in which the functions of this file see one process and do not communicate, to count a step's cost."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


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
    """Number of processes of the run; 1 without a process group.

    Example:
        >>> num_processes()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _is_alone else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of ``x`` (any shape) over processes, with its gradient; ``x`` itself on one process.

    Example:
        >>> sum_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    return _SumOverProcesses.apply(x) if num_processes() > 1 else x


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of ``x`` (any shape) over processes, with its gradient; ``x`` itself on one process.

    Data-parallel training averages gradients over processes. A loss computed from this mean then has the gradient
    of the global batch.

    Example:
        >>> mean_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    return sum_over_processes(x) / num_processes() if num_processes() > 1 else x


@torch.no_grad()
def gather_over_processes(x: Tensor) -> Tensor:
    """``x`` (N, ...) of all processes, concatenated in rank order, without gradient; N may differ per process.

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
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:int(size)] for rows, size in zip(gathered, sizes, strict=True)])


def reduction_device() -> torch.device:
    """The device of tensors that the process group reduces: the GPU for NCCL, else the CPU."""
    uses_gpus = num_processes() > 1 and "nccl" in dist.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if uses_gpus else torch.device("cpu")


def sum_numbers_over_processes(values: list[float]) -> list[float]:
    """Each value summed over processes, in float64."""
    if num_processes() == 1:
        return values
    return sum_over_processes(torch.tensor(values, dtype=torch.float64, device=reduction_device())).tolist()


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return any(sum_numbers_over_processes([float(flag)]))


def gather_objects_over_processes(value: Any) -> list[Any]:
    """The values (any that can be pickled) of all processes, in rank order."""
    values = [value]
    if num_processes() > 1:
        values = [None] * num_processes()
        dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def from_first_process(x: Tensor) -> Tensor:
    """``x`` of process 0, such as a random number, on all processes; ``x`` must have the same shape on each.

    Example:
        >>> from_first_process(torch.tensor(3)).item()
        3
    """
    if num_processes() > 1:
        x = x.clone()
        dist.broadcast(x, src=0)
    return x

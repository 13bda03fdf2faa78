"""What merging metrics and reducing them over processes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from toolkit.contracts import Metric


def several_processes() -> bool:
    """Whether scores are to be reduced.

    Example:
        >>> several_processes()
        False
    """
    return dist.is_available() and dist.is_initialized()


def reduction_device() -> torch.device:
    """Where tensors must be for the process group to reduce them.

    It is by backend, not by input: a process that saw no batch must still choose as the others do.

    Raises:
        RuntimeError: If there is no process group.
    """
    return torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else torch.device("cpu")


def sum_over_processes(values: list[float]) -> list[float]:
    """The float64 sums of every process's values; the values themselves where there is one process.

    Example:
        >>> sum_over_processes([1.0, 2.0])
        [1.0, 2.0]
    """
    if not several_processes():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=reduction_device())
    dist.all_reduce(sums)
    return sums.tolist()


def gather_over_processes(value: Any) -> list[Any]:
    """Every process's value, which can be pickled, in the order of their ranks.

    Example:
        >>> gather_over_processes("mine")
        ['mine']
    """
    if not several_processes():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def need_alike(metric: Metric, others: Sequence[Metric]) -> None:
    """Nothing if all metrics are of one class and built with the same plain arguments.

    Raises:
        ValueError: If they are not, so that they cannot be merged.

    Example:
        >>> from toolkit.metrics import PSNR, SSIM
        >>> need_alike(PSNR(), [SSIM()])
        Traceback (most recent call last):
        ValueError: PSNR merges with metrics like {'type': 'PSNR'}, got {'type': 'SSIM'}.
    """
    wanted = _plain(metric)
    for other in others:
        if type(other) is not type(metric) or _plain(other) != wanted:
            raise ValueError(f"{type(metric).__name__} merges with metrics like {wanted}, got {_plain(other)}.")


def _plain(metric: Metric) -> dict[str, Any]:
    return {name: value for name, value in metric.config.items() if not callable(value)}

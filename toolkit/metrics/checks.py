"""What metrics check: the sizes of a batch, and which metrics may be merged."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from toolkit.contracts import Metric


def check_sizes(metric: Metric, target: Tensor, reconstruction: Tensor) -> None:
    """Raise ValueError unless both are clips of one size."""
    if target.shape != reconstruction.shape or target.ndim != 5:
        raise ValueError(f"{type(metric).__name__} compares clips (B, C, T, H, W) of equal size, got "
                         f"{tuple(target.shape)} and {tuple(reconstruction.shape)}.")


def check_mergeable(metric: Metric, others: Sequence[Metric]) -> None:
    """Raise ValueError unless all metrics are of one class and built with the same arguments."""
    for other in others:
        if type(other) is not type(metric) or other.config != metric.config:
            raise ValueError(f"{type(metric).__name__} merges with metrics like {metric.config}, got {other.config}.")

"""Which metrics may be merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.contracts import Metric


def check_mergeable(metric: Metric, others: Sequence[Metric]) -> None:
    """Raise ValueError unless all metrics are of one class and built with the same plain arguments."""
    expected = _plain_config(metric)
    for other in others:
        if type(other) is not type(metric) or _plain_config(other) != expected:
            raise ValueError(f"{type(metric).__name__} merges with metrics like {expected}, "
                             f"got {_plain_config(other)}.")


def _plain_config(metric: Metric) -> dict[str, Any]:
    return {name: value for name, value in metric.config.items() if not callable(value)}

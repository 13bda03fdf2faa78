"""The columns of tables, as the metrics declare them."""

from __future__ import annotations

from toolkit.contracts import Column, Metric
from toolkit.registry import METRICS


def heading(column: Column) -> str:
    """Label and unit."""
    return f"{column.label} ({column.unit})" if column.unit else column.label


def columns_of(metric: Metric) -> dict[str, Column]:
    """Score name -> column of a metric; one that declares no columns shows every score under its name."""
    return metric.columns or {name: Column(name) for name in metric.higher_is_better}


def registered_columns() -> dict[str, Column]:
    """Score name -> column of all built-in metrics and of the plugins' metrics in use, in the order of registration."""
    METRICS.import_from_location()
    return {name: column for metric in METRICS.module_dict.values() for name, column in metric.columns.items()}


def registered_directions() -> dict[str, bool]:
    """Score name -> whether higher is better, of the same metrics."""
    METRICS.import_from_location()
    return {name: higher for metric in METRICS.module_dict.values()
            for name, higher in getattr(metric, "higher_is_better", {}).items()}

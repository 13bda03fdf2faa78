"""Benchmarks: protocols, entries, scores with intervals, tables and the report page."""

from toolkit.evaluation.intervals import Interval, extrapolated, jackknife, union

__all__ = ["Interval", "extrapolated", "jackknife", "union"]

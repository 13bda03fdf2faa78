"""Benchmarks: protocols, entries, scores with intervals, tables and the report page."""

from toolkit.evaluation.intervals import Interval, extrapolate, jackknife, union

__all__ = ["Interval", "extrapolate", "jackknife", "union"]

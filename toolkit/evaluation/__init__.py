"""Benchmarks. This package exports the intervals; benchmarks/run.py uses the other modules."""

from toolkit.evaluation.intervals import Interval, extrapolate, jackknife, merge

__all__ = ["Interval", "extrapolate", "jackknife", "merge"]

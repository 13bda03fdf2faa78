"""Weights that change over a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Schedule = float | Sequence[tuple[int, float]]


def value_at(schedule: Schedule, step: int) -> float:
    """The value of a weight at an optimizer step: a number, or linear between points (step, value).

    The value is constant before the first point and after the last. Two points at one step make a jump.

    Example:
        >>> anneal = [(0, 0.3), (2000, 0.1)]
        >>> [round(value_at(anneal, step), 3) for step in (0, 1000, 2000, 9000)]
        [0.3, 0.2, 0.1, 0.1]
        >>> value_at([(500, 0.0), (500, 1.0)], 499), value_at([(500, 0.0), (500, 1.0)], 500)
        (0.0, 1.0)
    """
    if isinstance(schedule, int | float):
        return float(schedule)
    points = schedule if isinstance(schedule, list | tuple) else []
    if not points or not all(map(_is_point, points)) or any(a[0] > b[0] for a, b in pairwise(points)):
        raise ValueError(f"a weight is a number or a list of points (step, value) in rising order of steps, "
                         f"got {schedule!r}.")
    if step < points[0][0]:
        return float(points[0][1])
    for (start, first), (end, last) in pairwise(points):
        if start <= step < end:
            return first + (last - first) * (step - start) / (end - start)
    return float(points[-1][1])


def _is_point(point: object) -> bool:
    return isinstance(point, list | tuple) and len(point) == 2 and all(isinstance(x, int | float) for x in point)

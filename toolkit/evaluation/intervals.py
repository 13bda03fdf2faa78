"""How sure a score is: what it would be over other blocks of the same kind, and over infinitely many samples.

A block is a metric that has seen some of the data, whole source videos or photos, so that blocks are
independent of each other as frames of one video are not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from toolkit.contracts import Metric

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interval:
    """A score and how sure it is.

    Attributes:
        score: Of all blocks together.
        error: Its standard error.
        low, high: Between them lies the score of the population, in 95 of 100 such intervals.
        blocks: How many blocks had samples.

    Example:
        >>> interval = Interval(score=20.0, error=0.5, low=19.0, high=21.0, blocks=20)
        >>> interval.high - interval.score
        1.0
    """

    score: float
    error: float
    low: float
    high: float
    blocks: int


def jackknife(blocks: Sequence[Metric]) -> dict[str, Interval]:
    """Delete-one-block jackknife of every score of a metric, over the blocks that have samples.

    The error is ``sqrt((g - 1) / g * sum((s_i - mean(s))^2))`` with s_i the score of all blocks but the i-th;
    the interval goes to both sides by Student's t with g - 1 degrees of freedom. Blocks of unequal size
    count alike: the blocks are what was drawn, and a larger one shows in its larger effect on s_i.

    Args:
        blocks: Metrics of one class and the same arguments, each of its own part of the data. With several
            processes every one calls this with its shares of the same blocks.

    Returns:
        Name -> interval; empty if fewer than two blocks have samples, if the metric cannot be merged, or if
        what is left without a block is too little for a score, which is logged.

    Source: Efron & Stein, Annals of Statistics 9 (1981), 586-596.

    Example:
        >>> from toolkit.metrics import PSNR
        >>> blocks, grey = [PSNR(), PSNR(), PSNR()], torch.zeros(1, 3, 1, 4, 4)
        >>> for block, off in zip(blocks, (0.2, 0.02, 0.002)): block.update(target=grey, reconstruction=grey + off)
        >>> interval = jackknife(blocks)["psnr"]   # 20, 40 and 60 dB: the error of their mean is 20 / sqrt(3)
        >>> round(interval.score, 3), round(interval.error, 3), round(interval.high - interval.score, 2)
        (40.0, 11.547, 49.68)
    """
    blocks = _with_samples(blocks)
    if len(blocks) < 2:
        return {}
    try:
        scores = union(blocks).compute()
        with _fewer_samples():
            without = [union([*blocks[:i], *blocks[i + 1:]]).compute() for i in range(len(blocks))]
    except ValueError as error:  # such as a covariance of one sample
        logger.warning("%s has no interval: %s", type(blocks[0]).__name__, error)
        return {}
    return {name: _interval(score, [part[name] for part in without]) for name, score in scores.items()}


def _interval(score: float, without: list[float]) -> Interval:
    g = len(without)
    mean = math.fsum(without) / g
    error = math.sqrt((g - 1) / g * math.fsum((s - mean) ** 2 for s in without))
    reach = student_t(g - 1) * error
    return Interval(score, error, score - reach, score + reach, g)


SIZES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)  # of the subsets, in parts of all blocks


def extrapolated(blocks: Sequence[Metric], name: str) -> float | None:
    """A score at infinitely many samples, by a line through scores of growing subsets against 1 / N.

    Fréchet distances of few samples are too large by about a constant over N. Subsets have a quarter to all
    of the blocks; of each size there are several, neighbours in a fixed random ring, that hold every block
    about equally often, and their scores and 1 / N are averaged.

    Args:
        blocks: As for :func:`jackknife`.
        name: Which of the metric's scores.

    Returns:
        The line's value at 1 / N = 0, which may be below 0; None if fewer than four blocks have samples, if
        the metric cannot be merged, or if a quarter of the blocks is too little for a score, which is logged.

    Source: Chong & Forsyth, arXiv:1911.07023, sec. 3.

    Example:
        >>> from toolkit.metrics import PSNR
        >>> blocks, grey = [PSNR() for _ in range(8)], torch.zeros(1, 3, 1, 4, 4)
        >>> for block in blocks: block.update(target=grey, reconstruction=grey + 0.2)
        >>> round(extrapolated(blocks, "psnr"), 4)   # a mean does not depend on how many
        20.0
    """
    blocks = _with_samples(blocks)
    if len(blocks) < 4:
        return None
    ring = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0)).tolist()
    points = []
    try:
        for size in sorted({round(share * len(blocks)) for share in SIZES}):
            subsets = [union(blocks[i] for i in chosen) for chosen in _windows(ring, size)]
            inverse = [1 / subset.num_samples() for subset in subsets]
            with _fewer_samples():
                scores = [subset.compute()[name] for subset in subsets]
            points.append((math.fsum(inverse) / len(subsets), math.fsum(scores) / len(subsets)))
    except ValueError as error:  # such as a covariance of one sample
        logger.warning("%s of %s is not extrapolated: %s", name, type(blocks[0]).__name__, error)
        return None
    x, y = (math.fsum(values) / len(points) for values in zip(*points, strict=True))
    slope = math.fsum((a - x) * (b - y) for a, b in points) / math.fsum((a - x) ** 2 for a, _ in points)
    return y - slope * x


def _windows(ring: list[int], size: int) -> list[list[int]]:
    """Subsets of neighbours, about twice as many as it takes to hold each; in ascending order within."""
    g = len(ring)
    count = 1 if size == g else min(g, 2 * math.ceil(g / size))
    return [sorted(ring[(start * g // count + i) % g] for i in range(size)) for start in range(count)]


@contextmanager
def _fewer_samples() -> Iterator[None]:
    """Within, the metrics do not warn of what is meant: that there are fewer samples than in all blocks."""
    warned = logging.getLogger("toolkit.metrics.frechet")
    before, warned.disabled = warned.disabled, True
    try:
        yield
    finally:
        warned.disabled = before


def union(blocks: Iterable[Metric]) -> Metric:
    """One metric of all that the blocks have seen; they are left as they are.

    Raises:
        NotImplementedError: If the metric cannot be merged.

    Example:
        >>> from toolkit.metrics import PSNR
        >>> blocks, grey = [PSNR(), PSNR()], torch.zeros(1, 3, 1, 4, 4)
        >>> for block in blocks: block.update(target=grey, reconstruction=grey + 0.2)
        >>> union(blocks).num_samples()
        2
    """
    first, *others = blocks
    return first.merged(others)


def _with_samples(blocks: Sequence[Metric]) -> list[Metric]:
    """The blocks that are not empty in every process; none if the metric does not count or merge."""
    try:
        found = [block for block in blocks if block.num_samples()]
        if found:
            union(found[:1])
    except NotImplementedError as error:
        logger.warning("%s", error)
        return []
    return found


def student_t(degrees: int, *, level: float = 0.95) -> float:
    """The t within which, to both sides, Student's distribution has ``level`` of its mass.

    Example:
        >>> round(student_t(1), 3), round(student_t(19), 3)
        (12.706, 2.093)
    """
    low, high = 0.0, 1.0
    while _mass_within(high, degrees) < level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _mass_within(middle, degrees) < level else (low, middle)
    return high


def _mass_within(t: float, degrees: int) -> float:
    """Of -t to t; Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2:
        term, total = cosine, 0.0
        for k in range(1, (degrees - 1) // 2 + 1):
            total += term
            term *= cosine**2 * 2 * k / (2 * k + 1)
        return 2 / math.pi * (angle + sine * total)
    term, total = 1.0, 0.0
    for k in range(1, degrees // 2 + 1):
        total += term
        term *= cosine**2 * (2 * k - 1) / (2 * k)
    return sine * total

"""Confidence intervals by jackknife, and extrapolation of scores to infinitely many samples.

Data is divided into blocks of whole videos or photos, because frames of one video are not independent.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from toolkit.contracts import Metric

logger = logging.getLogger(__name__)
SHARES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)  # sizes of subsets for an extrapolation, as fractions of the blocks


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % confidence interval.

    Example:
        >>> interval = Interval(score=20.0, standard_error=0.5, low=19.0, high=21.0, num_blocks=20)
        >>> interval.high - interval.score
        1.0
    """

    score: float  # of all blocks together
    standard_error: float
    low: float
    high: float
    num_blocks: int  # with samples
    without_block: tuple[float, ...] = ()  # the scores without one block, for each block


def jackknife(blocks: Sequence[Metric]) -> dict[str, Interval]:
    """Delete-one-block jackknife (Efron & Stein, Annals of Statistics 9 (1981), 586-596) of every score of a metric.

    The standard error is ``sqrt((g - 1) / g * sum((s_i - mean(s))^2))``; s_i is the score without the i-th of g blocks.
    The half-width is the standard error times the 0.975 quantile of Student's t(g - 1). All blocks have equal weight.

    Args:
        blocks: Metrics of one class with the same arguments, one for each block. In a distributed run every process
            calls this; a metric then has the samples that this process has of its block.

    Returns:
        Name -> interval; empty with fewer than two blocks, or (logged) if not mergeable or with too few samples.

    Example:
        >>> from toolkit.metrics import PSNR
        >>> blocks, grey = [PSNR(), PSNR(), PSNR()], torch.zeros(1, 3, 1, 4, 4)
        >>> for block, off in zip(blocks, (0.2, 0.02, 0.002)): block.update(target=grey, reconstruction=grey + off)
        >>> interval = jackknife(blocks)["psnr"]   # 20, 40 and 60 dB: standard error 20 / sqrt(3)
        >>> round(interval.score, 3), round(interval.standard_error, 3), round(interval.high - interval.score, 2)
        (40.0, 11.547, 49.68)
    """
    try:
        blocks = [block for block in blocks if block.num_samples()]
        if len(blocks) < 2:
            return {}
        scores = merge(blocks).compute()
        with _without_few_samples_warning():
            without_block = [merge([*blocks[:i], *blocks[i + 1:]]).compute() for i in range(len(blocks))]
    except (NotImplementedError, ValueError) as error:  # not mergeable; or too few samples
        logger.warning("%s has no interval: %s", type(blocks[0]).__name__, error)
        return {}
    return {name: jackknife_interval(score, without_block=[other[name] for other in without_block])
            for name, score in scores.items()}


def jackknife_interval(score: float, *, without_block: Sequence[float]) -> Interval:
    """The interval of a score from the scores without one block, for each of g >= 2 blocks; see :func:`jackknife`.

    Example:
        >>> interval = jackknife_interval(40.0, without_block=[50.0, 40.0, 30.0])
        >>> round(interval.standard_error, 3), interval.num_blocks   # sqrt(2 / 3 * 200)
        (11.547, 3)
    """
    g = len(without_block)
    mean = math.fsum(without_block) / g
    error = math.sqrt((g - 1) / g * math.fsum((s - mean) ** 2 for s in without_block))
    half_width = student_quantile(g - 1) * error
    return Interval(score, error, score - half_width, score + half_width, g, tuple(without_block))


def student_quantile(degrees_of_freedom: int) -> float:
    """The 0.975 quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, 0.975))


def extrapolate(blocks: Sequence[Metric], name: str) -> float | None:
    """A score for infinitely many samples (Chong & Forsyth, arXiv:1911.07023, sec. 3).

    The bias of a Fréchet distance of N samples is about c / N. A line is fitted to the scores of subsets over 1 / N. A
    subset has a quarter to all of the blocks, consecutive ones in a fixed random circular order, so that each
    block is in about as many subsets as every other. The scores of equally large subsets are averaged.

    Args:
        blocks: As in :func:`jackknife`.
        name: The score.

    Returns:
        The value of the line at 1 / N = 0, which may be negative. None with fewer than four blocks, or (logged) if the
        metric cannot be merged or a subset has too few samples for a score.

    Example:
        >>> from toolkit.metrics import PSNR
        >>> blocks, grey = [PSNR() for _ in range(8)], torch.zeros(1, 3, 1, 4, 4)
        >>> for block in blocks: block.update(target=grey, reconstruction=grey + 0.2)
        >>> round(extrapolate(blocks, "psnr"), 4)   # a mean does not depend on the number of samples
        20.0
    """
    inverses, scores = [], []
    try:
        blocks = [block for block in blocks if block.num_samples()]
        if len(blocks) < 4:
            return None
        g = len(blocks)
        order = torch.randperm(g, generator=torch.Generator().manual_seed(0)).tolist()
        for size in sorted({round(share * g) for share in SHARES}):
            count = 1 if size == g else min(g, 2 * math.ceil(g / size))  # each block is in about two subsets
            starts = [number * g // count for number in range(count)]
            circular = order + order
            subsets = [merge(blocks[i] for i in sorted(circular[start:start + size])) for start in starts]
            inverses.append(statistics.fmean(1 / subset.num_samples() for subset in subsets))
            with _without_few_samples_warning():
                scores.append(statistics.fmean(subset.compute()[name] for subset in subsets))
    except (NotImplementedError, ValueError) as error:  # not mergeable; or too few samples
        logger.warning("%s of %s is not extrapolated: %s", name, type(blocks[0]).__name__, error)
        return None
    return statistics.linear_regression(inverses, scores).intercept


@contextmanager
def _without_few_samples_warning() -> Iterator[None]:
    frechet_logger = logging.getLogger("toolkit.metrics.frechet")  # which warns of few samples
    before, frechet_logger.disabled = frechet_logger.disabled, True
    try:
        yield
    finally:
        frechet_logger.disabled = before


def merge(blocks: Iterable[Metric]) -> Metric:
    """One metric of the samples of all blocks; the blocks do not change.

    Raises:
        NotImplementedError: If the metric cannot be merged.

    Example:
        >>> from toolkit.metrics import PSNR
        >>> blocks, grey = [PSNR(), PSNR()], torch.zeros(1, 3, 1, 4, 4)
        >>> for block in blocks: block.update(target=grey, reconstruction=grey + 0.2)
        >>> merge(blocks).num_samples()
        2
    """
    first, *others = blocks
    return first.merged(others)

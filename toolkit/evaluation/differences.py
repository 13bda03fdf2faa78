"""Whether two entries of a leaderboard differ by more than the spread over seeds and over data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.evaluation.intervals import jackknife_interval, student_quantile

MIN_SEEDS = 3  # fewer say too little about the spread over seeds


@dataclass(frozen=True)
class SeedScore:
    """A score of one training."""

    score: float | None  # None or NaN: missing
    without_block: tuple[float, ...] = ()  # the scores without one block of the data, for each block; () if unknown


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds, and the half-widths of its two 95 % intervals."""

    mean: float
    over_seeds: float
    over_data: float | None  # None if the scores without a block are unknown

    @property
    def half_width(self) -> float:
        """The larger of the two half-widths."""
        return max(self.over_seeds, self.over_data or 0.0)


def difference_beyond_spread(entry: Mapping[int, SeedScore], *, reference: Mapping[int, SeedScore],
                             ) -> Difference | None:
    """The mean difference of two entries if it is larger than the spread, else None.

    d_s is the entry's score minus the reference's with seed s; equal seeds draw the same training data in the same
    order. A difference is larger than the spread if

    1. at least three seeds are common to both, and no score of them is missing;
    2. all d_s have the same sign;
    3. the absolute mean of d_s exceeds the half-width of its paired 95 % t interval,
       ``t(n - 1) * stdev(d_s) / sqrt(n)``; for three seeds ``2.48 * stdev(d_s)``;
    4. it exceeds the half-width of its 95 % jackknife interval over blocks of data.

    Condition 3 assumes that d_s is normal; the entries may have different variances. A divergent training counts as a
    missing score, because dropping it would bias the mean. Condition 4 is skipped if no training has scores without a
    block. The result is None if only some have them or their numbers of blocks differ, because the data were then not
    the same. The intervals are not corrected for the number of comparisons.

    Args:
        entry: Seed -> score.
        reference: Seed -> score.

    Example:
        >>> def seeds(*scores): return {seed: SeedScore(score) for seed, score in enumerate(scores)}
        >>> difference = difference_beyond_spread(seeds(21.0, 21.2, 21.1), reference=seeds(20.0, 20.1, 20.2))
        >>> round(difference.mean, 3), round(difference.over_seeds, 3)   # d = 1.0, 1.1, 0.9
        (1.0, 0.248)
        >>> difference_beyond_spread(seeds(21.0, 20.2, 21.1), reference=seeds(20.0, 20.1, 20.2)) is None
        True
    """
    common = sorted(entry.keys() & reference.keys())
    if len(common) < MIN_SEEDS:
        return None
    pairs = [(entry[seed], reference[seed]) for seed in common]
    if any(item.score is None or not math.isfinite(item.score) for pair in pairs for item in pair):
        return None
    differences = [first.score - second.score for first, second in pairs]
    if not (all(d > 0 for d in differences) or all(d < 0 for d in differences)):
        return None
    mean, n = statistics.fmean(differences), len(differences)
    over_seeds = student_quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    over_data, blocks = None, {len(item.without_block) for pair in pairs for item in pair}
    if len(blocks) > 1:
        return None
    if blocks.pop() > 1:
        without_block = [statistics.fmean(first.without_block[block] - second.without_block[block]
                                          for first, second in pairs)
                         for block in range(len(pairs[0][0].without_block))]
        interval = jackknife_interval(mean, without_block=without_block)
        over_data = interval.high - interval.score
    difference = Difference(mean, over_seeds, over_data)
    return difference if abs(mean) > difference.half_width else None

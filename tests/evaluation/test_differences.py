"""The rule that decides whether two entries of a leaderboard differ, on numbers computed by hand."""

import math

import pytest

from toolkit.evaluation.differences import SeedScore, difference_beyond_spread

T2 = 4.302652729911275  # 0.975 quantile of Student's t with 2 degrees of freedom, from a table
REFERENCE = (20.0, 20.1, 20.2)


def seeds(*scores, without_block=()):
    """Seed -> score; ``without_block`` is added to the score of each seed."""
    return {seed: SeedScore(score, tuple(score + change for change in without_block))
            for seed, score in enumerate(scores)}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clear_difference_counts_in_both_directions(sign):
    better = seeds(21.0, 21.2, 21.1)  # differences 1.0, 1.1, 0.9: standard deviation 0.1
    pair = (better, seeds(*REFERENCE)) if sign > 0 else (seeds(*REFERENCE), better)
    difference = difference_beyond_spread(pair[0], reference=pair[1])
    assert difference.mean == pytest.approx(sign * 1.0)
    assert difference.over_seeds == pytest.approx(T2 * 0.1 / math.sqrt(3))
    assert difference.over_data is None and difference.half_width == difference.over_seeds


@pytest.mark.parametrize("scores", [
    (20.5, 20.0, 20.9),  # one seed is the other way
    (20.1, 20.2, 20.9),  # the same sign; 0.3 +- 0.86
    REFERENCE,
    (21.0, math.nan, 21.1),
    (21.0, None, 21.1),
    (21.0, math.inf, 21.1)])
def test_no_difference_where_seeds_overlap_are_equal_or_miss_a_score(scores):
    scores = {seed: SeedScore(score) for seed, score in enumerate(scores)}
    assert difference_beyond_spread(scores, reference=seeds(*REFERENCE)) is None
    assert difference_beyond_spread(seeds(*REFERENCE), reference=scores) is None


def test_two_common_seeds_are_too_few_whatever_the_difference():
    assert difference_beyond_spread(seeds(30.0, 30.1), reference=seeds(*REFERENCE)) is None
    others = {seed: SeedScore(30.0) for seed in (1, 2, 3)}
    assert difference_beyond_spread(others, reference=seeds(*REFERENCE)) is None


def test_a_difference_must_exceed_the_half_width_and_not_only_reach_zero():
    spread = T2 / math.sqrt(3)  # half-width for differences of standard deviation 1
    for shift, counts in ((spread + 0.01, True), (spread - 0.01, False)):
        entry = {seed: SeedScore(shift + change) for seed, change in enumerate((-1.0, 0.0, 1.0))}
        assert (difference_beyond_spread(entry, reference=seeds(0.0, 0.0, 0.0)) is not None) == counts


@pytest.mark.parametrize(("change", "counts"), [(0.1, True), (1.0, False)])
def test_a_difference_must_exceed_the_interval_over_data(change, counts):
    # the paired difference without a block is 1 - change, 1 and 1 + change:
    # a standard error of sqrt(2 / 3 * 2 change^2), times 4.303 a half-width of 4.97 change
    entry = seeds(21.0, 21.1, 21.2, without_block=(5.0 - change, 0.0, -5.0 + change))
    reference = seeds(*REFERENCE, without_block=(5.0, 0.0, -5.0))  # a hard and an easy block for both
    difference = difference_beyond_spread(entry, reference=reference)
    assert (difference is not None) == counts
    if counts:
        assert difference.over_data == pytest.approx(T2 * math.sqrt(4 / 3) * change)
        assert difference.over_seeds == pytest.approx(0, abs=1e-9)
        assert difference.half_width == difference.over_data


def test_rows_of_other_blocks_are_not_compared():
    entry = seeds(21.0, 21.1, 21.2, without_block=(0.0, 0.0))
    assert difference_beyond_spread(entry, reference=seeds(*REFERENCE, without_block=(0.0, 0.0))) is not None
    assert difference_beyond_spread(entry, reference=seeds(*REFERENCE, without_block=(0.0, 0.0, 0.0))) is None
    assert difference_beyond_spread(entry, reference=seeds(*REFERENCE)) is None

"""Intervals and extrapolation, against SciPy, closed forms and simulated data."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from pooled import Thumbnails, pair

from toolkit.contracts import Metric
from toolkit.evaluation.intervals import extrapolate, jackknife, merge
from toolkit.metrics import PSNR, Codebook
from toolkit.metrics.frames import FrameMean
from toolkit.metrics.frechet import FrechetMetric


class MeanError(FrameMean):
    name, higher_is_better = "error", {"error": False}

    def score(self, target, reconstruction):
        return (reconstruction - target).mean((1, 2, 3)) * 2  # of [-1, 1] in [0, 1]


class Values(FrechetMetric):
    name, dim, higher_is_better = "values", 8, {"values": False}

    def __init__(self):
        super().__init__(lambda clips: clips.flatten(1))

    def samples(self, clips):
        return clips  # eight values


def updated(metric: Metric, target: torch.Tensor, reconstruction: torch.Tensor) -> Metric:
    metric.update(target=target, reconstruction=reconstruction)
    return metric


def blocks_of(errors: list[torch.Tensor]) -> list[Metric]:
    """Each of frames with these errors."""
    clips = [values.reshape(-1, 1, 1, 1, 1).expand(-1, 3, 1, 2, 2) for values in errors]
    return [updated(MeanError(), torch.zeros_like(clip), clip) for clip in clips]


def normal_blocks(counts: list[int], generator: torch.Generator) -> list[Metric]:
    """Targets and reconstructions of one distribution."""
    return [updated(Values(), *(0.15 * torch.randn(count, 8, 1, 1, 1, generator=generator) for _ in range(2)))
            for count in counts]


def test_error_of_a_mean_of_equal_blocks_is_that_of_their_means():
    errors = list(torch.rand(7, 5) * 0.5)
    interval = jackknife(blocks_of(errors))["error"]
    means = torch.stack(errors).double().mean(1).numpy()
    low, high = scipy.stats.t.interval(0.95, 6, means.mean(), scipy.stats.sem(means))
    assert interval.standard_error == pytest.approx(scipy.stats.sem(means), rel=1e-5)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-5)
    assert interval.score == pytest.approx(means.mean(), rel=1e-5) and interval.num_blocks == 7


def test_blocks_of_unequal_size_follow_the_formula():
    errors = [torch.rand(n) * 0.5 for n in (1, 2, 5, 9)]
    without = [torch.cat(errors[:i] + errors[i + 1:]).double().mean().item() for i in range(4)]
    expected = math.sqrt(3 / 4 * sum((s - np.mean(without)) ** 2 for s in without))
    assert jackknife(blocks_of(errors))["error"].standard_error == pytest.approx(expected, rel=1e-5)


def test_95_of_100_intervals_hold_the_truth():
    generator, hits = torch.Generator().manual_seed(0), 0
    for _ in range(400):  # frames of a block are alike, which is what blocks are for
        errors = [0.1 * (torch.randn(1, generator=generator) + 0.3 * torch.randn(4, generator=generator))
                  for _ in range(10)]
        interval = jackknife(blocks_of([e.clamp(-1, 1) for e in errors]))["error"]
        hits += interval.low <= 0 <= interval.high
    assert abs(hits / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_every_score_of_a_metric_gets_an_interval_and_blocks_stay_as_they_are():
    clip, blocks = torch.zeros(1, 3, 1, 8, 8), [Codebook(codebook_size=8) for _ in range(3)]
    for number, block in enumerate(blocks):
        block.update(target=clip, reconstruction=clip, indices=torch.arange(4).reshape(1, 1, 2, 2, 1) + number)
    before = [block.compute() for block in blocks]
    intervals = jackknife(blocks)
    assert intervals.keys() == before[0].keys() and [block.compute() for block in blocks] == before
    assert intervals["bits_per_pixel"].standard_error == 0 and intervals["codebook_usage"].standard_error > 0
    assert {name: interval.score for name, interval in intervals.items()} == merge(blocks).compute()


def test_empty_blocks_do_not_count_and_one_block_has_no_interval():
    full = blocks_of([torch.rand(3) for _ in range(3)])
    assert jackknife([MeanError(), *full, MeanError()]) == jackknife(full)
    assert jackknife(full[:1]) == jackknife([MeanError(), MeanError()]) == jackknife([]) == {}


def test_metrics_that_cannot_merge_have_no_interval(caplog):
    class Alone(PSNR):
        num_samples = Metric.num_samples

    assert jackknife([Alone(), Alone()]) == {} and extrapolate([Alone()] * 5, "psnr") is None
    assert "Alone has no num_samples" in caplog.text


def test_blocks_of_too_few_samples_have_no_interval(caplog):
    assert jackknife(normal_blocks([1, 1], torch.Generator())) == {}
    assert extrapolate(normal_blocks([1] * 4, torch.Generator()), "values") is None
    assert "needs at least 2 samples" in caplog.text


def test_subsets_give_no_warning(caplog):
    blocks = [updated(Thumbnails(), **pair(31 - seed, 3, 1, 8, 8, seed=seed)) for seed in range(4)]
    merge(blocks).compute()  # 118 samples are enough
    for part in blocks, blocks[:1]:
        jackknife(part), extrapolate(part, "pooled")
    assert not [r for r in caplog.records if "singular" in r.message]


@pytest.mark.parametrize("counts", [[10] * 20, [3, 20, 7, 10] * 5])
def test_extrapolation_removes_the_bias_of_few_samples(counts):
    generator, raw, limits = torch.Generator().manual_seed(0), [], []
    for _ in range(40):
        blocks = normal_blocks(counts, generator)  # the distance is 0
        raw.append(merge(blocks).compute()["values"])
        limits.append(extrapolate(blocks, "values"))
    assert np.mean(raw) > 10 * abs(np.mean(limits))


def test_extrapolation_is_of_a_line_exact_and_always_the_same():
    class Line(PSNR):
        def compute(self):
            return {"psnr": 3 + 5 / self.num_samples()}

    clips = [torch.zeros(1 + number % 3, 3, 1, 4, 4) for number in range(11)]
    blocks = [updated(Line(), clip, clip) for clip in clips]
    assert extrapolate(blocks, "psnr") == pytest.approx(3, rel=1e-9)
    assert extrapolate(blocks, "psnr") == extrapolate(blocks, "psnr")


def test_fewer_than_four_blocks_are_not_extrapolated():
    blocks = normal_blocks([20] * 4, torch.Generator().manual_seed(0))
    assert extrapolate(blocks[:3], "values") is None and extrapolate([*blocks[:3], Values()], "values") is None
    assert extrapolate(blocks, "values") is not None

"""Checks of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toolkit.contracts import Column, Metric
from toolkit.testing.checks import Check, check_type
from toolkit.testing.components import Size, check_config, duplicate, seeded, tiny_pixels
from toolkit.testing.processes import on_two_processes

Batch = dict[str, Tensor]
Scores = dict[str, float]


def check_metric(metric: Metric, *, size: Size = (2, 16, 16), codebook_size: int | None = None,
                 num_codebooks: int | None = None, tolerance: float = 1e-6,
                 processes: Sequence[int] = (1, 2)) -> None:
    """Check that a metric meets its contract; raise ContractViolation if not.

    Scores are finite, named as in ``higher_is_better`` and ``columns``, and better for a perfect reconstruction. Two
    updates equal one with the joined batch. ``compute`` changes nothing, ``reset`` drops everything. Another metric's
    ``target_state`` gives the same scores. ``merged``, if written, equals joint updates and changes no metric. Two
    processes that share the data report the scores of all of it.

    Args:
        size: (T, H, W) of the pixels.
        codebook_size: K of the indices; by default its own attribute, or 16.
        num_codebooks: G of them; by default its own attribute, or 1.
        tolerance: Of scores, relative; sums are to be float64.
        processes: With 2 among them, two real processes share the data.

    Example:
        >>> from toolkit.metrics import PSNR
        >>> check_metric(PSNR(), processes=(1,))
    """
    with seeded(0):
        check_type(metric, Metric)
        check_config(metric)
        batches = _batches(size, codebook_size or getattr(metric, "codebook_size", 16),
                           num_codebooks or getattr(metric, "num_codebooks", 1))
        joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        metric = duplicate(metric)
        expected = _check_scores(metric, joined)

        def need_expected(checked: Check, scores: Scores, *, needed: str, do: str) -> None:
            equal = scores.keys() == expected.keys() and all(
                math.isclose(scores[name], expected[name], rel_tol=tolerance, abs_tol=1e-9) for name in expected)
            checked.need(equal, needed=f"{needed}, {expected}", got=f"{scores}", do=do)

        _check_state(metric, batches, joined, need_expected)
        with Check(metric, "higher_is_better says which way is better") as checked:
            _need_direction(checked, metric, joined, expected)
        if type(metric).merged is not Metric.merged:
            _check_merging(metric, batches, need_expected)
        if 2 in processes:
            with Check(metric, "two processes that share the data report what one does") as checked:
                results = on_two_processes(checked, _scores, [(metric, batches[:1]), (metric, batches[1:])])
                for rank, scores in enumerate(results):
                    need_expected(checked, scores, needed=f"in process {rank} the scores of all data",
                                  do="add up sums and counts over processes in compute, not their quotients")


def _batches(size: Size, codebook_size: int, num_codebooks: int) -> list[Batch]:
    """Three batches with different sizes and errors, so that a mean of means differs from the mean."""
    generator, batches = torch.Generator().manual_seed(9), []
    for number, samples in enumerate((1, 1, 2)):
        target = tiny_pixels(batch=samples, size=size, seed=number)
        noise = 0.2 * (number + 1) * torch.randn(target.shape, generator=generator)
        indices = torch.randint(max(codebook_size, 1), (samples, 1, 2, 2, num_codebooks), generator=generator)
        batches.append({"target": target, "reconstruction": target + noise, "indices": indices})
    return batches


def _scores(metric: Metric, batches: Sequence[Batch]) -> Scores:
    """Scores of these batches alone."""
    metric.reset()
    for batch in batches:
        metric.update(**batch)
    return metric.compute()


def _check_scores(metric: Metric, batch: Batch) -> Scores:
    """Check the scores of one batch, and return them."""
    with Check(metric, "update takes target, reconstruction and indices, and leaves them as they are") as checked:
        kept = {name: tensor.clone() for name, tensor in batch.items()}
        scores = _scores(metric, [batch])
        for name, tensor in batch.items():
            checked.need_untouched(tensor, kept[name], "tensors")
    with Check(metric, "compute gives finite numbers by name") as checked:
        checked.need(isinstance(scores, dict) and all(isinstance(score, float) for score in scores.values()),
                     needed="a dict of floats", got=f"{scores!r}", do="return {name: tensor.item()}")
        checked.need(all(map(math.isfinite, scores.values())), needed="finite scores", got=f"{scores!r}",
                     do="bound what may become infinite, such as the ratio to an error of zero")
    with Check(metric, "higher_is_better names exactly the scores") as checked:
        better = metric.higher_is_better
        checked.need(isinstance(better, dict) and all(isinstance(way, bool) for way in better.values())
                     and better.keys() == scores.keys(),
                     needed=f"True or False for each of {sorted(scores)}", got=f"{better!r}",
                     do="set higher_is_better on the class")
    with Check(metric, "columns says how tables show its scores", do="use toolkit.Column") as checked:
        for name, column in metric.columns.items():
            checked.need(name in scores and isinstance(column, Column), needed=f"a Column of one of {sorted(scores)}",
                         got=f"{name!r}: {column!r}", do="correct columns")
            format(column.factor * scores[name], column.format)
    return scores


def _need_direction(checked: Check, metric: Metric, batch: Batch, noisy: Scores) -> None:
    perfect = _scores(metric, [batch | {"reconstruction": batch["target"].clone()}])
    for name, higher in metric.higher_is_better.items():
        gain = (perfect[name] - noisy[name]) * (1 if higher else -1)
        checked.need(gain >= 0, needed=f"a {name!r} of a perfect reconstruction no worse than a noisy one's",
                     got=f"{perfect[name]:.6g} and {noisy[name]:.6g} with higher_is_better {higher}",
                     do="correct higher_is_better, or which of target and reconstruction is which")


def _check_state(metric: Metric, batches: list[Batch], joined: Batch, need_expected: Callable[..., None]) -> None:
    """Compare the scores of a metric that has seen the joined batch with those of other ways to reach them."""
    with Check(metric, "computing changes nothing") as checked:
        need_expected(checked, metric.compute(), needed="the same scores a second time",
                      do="do not reset, divide or reduce what is kept in compute")
    with Check(metric, "resetting forgets everything") as checked:
        metric.update(**_inverted(batches[0]))
        need_expected(checked, _scores(metric, [joined]), needed="after reset the scores of a new metric",
                      do="set back all that update adds to in reset")
    with Check(metric, "two updates count as one with the joined batch") as checked:
        need_expected(checked, _scores(metric, batches), needed="for three batches the scores of the joined one",
                      do="add sums and counts in float64 and divide in compute only")
    with Check(metric, "a metric with another's target_state gives the same scores") as checked:
        metric.reset()
        second = duplicate(metric)
        metric.update(**joined)
        if (state := metric.target_state()) is not None:
            second.load_target_state(state)
            second.update(**joined)
            need_expected(checked, second.compute(), needed="the scores of the first metric",
                          do="return all that update keeps of the targets from target_state")


def _check_merging(metric: Metric, batches: list[Batch], need_expected: Callable[..., None]) -> None:
    other = _inverted(batches[0])
    with Check(metric, "merging counts as updating one metric with everything") as checked:
        metric.reset()
        blocks = [duplicate(metric) for _ in range(len(batches) + 1)]  # the last sees nothing
        for block, batch in zip(blocks, batches, strict=False):
            block.update(**batch)
        counts = [block.num_samples() for block in blocks]
        checked.need(all(type(count) is int for count in counts) and all(counts[:-1]) and not counts[-1],
                     needed="num_samples() of more than 0 for three batches and of 0 for none", got=f"{counts}",
                     do="count samples in update, and set the count back in reset")
        merged = blocks[0].merged(blocks[1:])
        need_expected(checked, merged.compute(), needed="the scores of the joined batch",
                      do="add up all that update adds to")
        checked.need(merged.num_samples() == sum(counts), needed=f"as many samples as the blocks have, {sum(counts)}",
                     got=f"{merged.num_samples()}", do="add up the counts too")
    with Check(metric, "a merged metric and its blocks do not change each other") as checked:
        merged.update(**other)
        again = blocks[0].merged(blocks[1:])
        need_expected(checked, again.compute(), needed="from the same blocks the same scores, after the first merged "
                      "metric was updated", do="copy what update changes in place")
        for block in (blocks[0], blocks[-1]):
            block.update(**other)
        need_expected(checked, again.compute(), needed="the same scores after a block was updated",
                      do="copy what update changes in place")


def _inverted(batch: Batch) -> Batch:
    return batch | {"reconstruction": -batch["reconstruction"]}

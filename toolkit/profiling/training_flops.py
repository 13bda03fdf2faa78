"""FLOPs of a training: the trainer's own step, summed over its schedules; and the number of steps in a budget."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from itertools import pairwise

from toolkit.config import ConfigError
from toolkit.profiling.cost import SourceCost, measure_sources
from toolkit.training.settings import PiecewiseLinear, Settings, value_at
from toolkit.training.trainer import RunComponents

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """Optimizer steps from ``start`` to the next stage. The same terms are computed in all of them."""

    start: int
    flops: int  # of one optimizer step


class TrainingFlops:
    """FLOPs of the optimizer steps of a run, in all micro-batches and on all processes.

    The count has the convolutions, matrix products and attention of the trainer's own step, with a multiply-add as two:
    forward and backward passes, recomputed activations, losses with their networks, discriminators and R1. It leaves
    out the optimizer, element-wise operations, updates of codebooks by averages or k-means, and validation. Attention
    counts as its matrix products, whichever kernel computes it. The count does not depend on the machine.

    A loss counts only in the steps that compute it. Two costs are averaged over steps: R1 (1 / ``r1_every`` of its cost
    in each step) and the data sources (by their weights).

    Args:
        run: The components, with or without weights. They are not changed.
        num_processes: Number of processes of the run.

    Attributes:
        stages: Stages in order, each with the FLOPs of one of its steps.

    Raises:
        ConfigError: If a dataset has no ``sample_size``, or a step's cost depends on tensor values.
    """

    def __init__(self, run: RunComponents, *, num_processes: int):
        schedules = [run.settings.quantization, *run.objective.schedules()]

        def signs(step: int) -> tuple[int, ...]:
            return tuple(_sign(value_at(schedule, step)) for schedule in schedules)

        starts = [step for step in sorted({0}.union(*map(sign_changes, schedules)))
                  if step == 0 or signs(step) != signs(step - 1)]
        measured: dict[tuple[int, ...], list[SourceCost]] = {}  # by signs
        for start in starts:
            if signs(start) not in measured:
                measured[signs(start)] = measure_sources(run, step=start)
        self._sources = {start: measured[signs(start)] for start in starts}
        micro_batches = num_processes * run.settings.gradient_accumulation_steps  # of an optimizer step
        self.stages = [Stage(start, round(micro_batches * sum(source.share * source.flops for source in sources)))
                       for start, sources in self._sources.items()]

    def sources(self, step: int) -> list[SourceCost]:
        """The cost of optimizer step ``step`` for each source of data, of one micro-batch of one process."""
        return self._sources[max(start for start in self._sources if start <= step)]

    def total(self, num_steps: int) -> int:
        """FLOPs of the first ``num_steps`` optimizer steps."""
        ends = [*(stage.start for stage in self.stages[1:]), num_steps]
        return sum(max(0, min(end, num_steps) - stage.start) * stage.flops
                   for stage, end in zip(self.stages, ends, strict=True))

    def steps_within(self, budget: float) -> int:
        """The largest number of optimizer steps that together have at most ``budget`` FLOPs."""
        steps = 0
        for stage, end in zip(self.stages, [*(stage.start for stage in self.stages[1:]), None], strict=True):
            steps = stage.start + int((budget - self.total(stage.start)) // stage.flops)
            if end is None or steps < end:
                break
        return steps


def settings_within_budget(run: RunComponents, *, num_processes: int) -> Settings:
    """The settings of a run with ``max_steps`` in place of ``max_flops``; unchanged without ``max_flops``.

    Raises:
        ConfigError: If the budget is smaller than one step, or the cost of a step cannot be counted.
    """
    settings = run.settings
    if settings.max_flops is None:
        return settings
    flops = TrainingFlops(run, num_processes=num_processes)
    first = flops.stages[0].flops
    max_steps = flops.steps_within(settings.max_flops)
    if not max_steps:
        raise ConfigError(f"training.max_flops needs at least {first:.4g}, the FLOPs of one optimizer step, got "
                          f"{settings.max_flops:.4g}; set a larger number.")
    logger.info("training.max_flops=%.4g gives max_steps=%d; FLOPs of a step: %s.", settings.max_flops, max_steps,
                ", ".join(f"{stage.flops:.4g}" + f" from step {stage.start} on" * (len(flops.stages) > 1)
                          for stage in flops.stages))
    return replace(settings, max_flops=None, max_steps=max_steps)


def sign_changes(schedule: PiecewiseLinear) -> set[int]:
    """All steps after 0 at which the sign (-1, 0 or 1) of a schedule may differ from that of the step before."""
    if isinstance(schedule, int | float):
        return set()
    steps = {step for x, _ in schedule for step in (math.ceil(x), math.floor(x) + 1)}
    for (start, first), (end, last) in pairwise(schedule):
        if first * last < 0:  # near the crossing, as its position is rounded
            crossing = math.floor(start + (end - start) * first / (first - last))
            steps |= set(range(crossing - 1, crossing + 3))
    return {step for step in steps if step > 0}


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)

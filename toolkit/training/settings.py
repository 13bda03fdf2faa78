"""The ``training`` section of a config."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from operator import attrgetter
from typing import Any

from toolkit.config import ConfigError, check_keys

PiecewiseLinear = float | Sequence[tuple[int, float]]


def value_at(schedule: PiecewiseLinear, step: int, *, name: str = "a schedule") -> float:
    """The value of a schedule at a step. A schedule is a number, or points (step, value) with linear interpolation.

    Constant before the first point and after the last; two points at one step make a jump. Errors call it ``name``.

    Example:
        >>> anneal = [(0, 0.3), (2000, 0.1)]
        >>> [round(value_at(anneal, step), 3) for step in (0, 1000, 2000, 9000)]
        [0.3, 0.2, 0.1, 0.1]
    """
    if isinstance(schedule, int | float):
        return float(schedule)
    points = schedule if isinstance(schedule, list | tuple) else []
    if not points or not all(map(_is_point, points)) or any(a[0] > b[0] for a, b in pairwise(points)):
        raise ConfigError(f"{name} is a number or a list of points (step, value) in order of steps, got {schedule!r}.")
    if step < points[0][0]:
        return float(points[0][1])
    for (start, first), (end, last) in pairwise(points):
        if start <= step < end:
            return first + (last - first) * (step - start) / (end - start)
    return float(points[-1][1])


def _is_point(point: object) -> bool:
    return isinstance(point, list | tuple) and len(point) == 2 and all(isinstance(x, int | float) for x in point)


@dataclass(kw_only=True)
class CheckpointSettings:
    """Optimizer steps between checkpoints, and the number of checkpoints to keep (None: all)."""

    every: int = 1000
    keep: int | None = 3


@dataclass(kw_only=True)
class Settings:
    """The settings of a training run; a ConfigError names the first invalid setting.

    Attributes:
        max_steps: Optimizer steps. None: computed from ``max_flops``.
        max_flops: Budget in place of ``max_steps``: FLOPs of the whole training, on all processes together. It gives
            the largest number of optimizer steps within it (``toolkit.profiling.training_flops``). Set
            ``max_steps=None`` if the base config has a number of steps.
        learning_rate: Learning rate of the tokenizer's cosine at step 0; it falls to ``min_learning_rate`` at
            ``max_steps``. In the first ``warmup_steps`` a linear warm-up from 0 to ``learning_rate`` replaces it.
        discriminator_learning_rate: Learning rate of the discriminators; None: as the tokenizer's.
        betas, eps, weight_decay: Arguments of the optimizer, if it has them.
        optimizer: Arguments of timm's ``create_optimizer_v2``, such as dict(opt="adamw", weight_decay=0.01); they take
            precedence over betas, eps and weight_decay. Default: fused Adam.
        schedule: Arguments of timm's ``create_scheduler_v2``, such as dict(sched="step", decay_epochs=1000); an "epoch"
            is one optimizer step. They take precedence over warmup_steps and min_learning_rate. Default: cosine.
        trackers: accelerate's names of experiment trackers, such as ["tensorboard", "wandb"].
        gradient_accumulation_steps: Micro-batches per optimizer step. Accumulation equals a larger batch only for means
            over samples. The following use one micro-batch of all processes at a time: codebook_entropy, lecam,
            AdaptiveWeight, PatchGANDiscriminator's batch norm, and the quantizer options update="ema", kmeans_iters,
            revive_below and quantize_dropout.
        global_batch_size: Samples per optimizer step, of all processes and micro-batches together. If set, it
            determines the number of micro-batches.
        mixed_precision: "no", "bf16" or "fp16".
        activation_checkpointing: Recompute activations in the backward pass: True for all levels, or the number of
            levels, counted from the finest, which has the largest activations.
        compile: Compile the networks by ``torch.compile``: minutes at the start, then faster steps on a GPU.
        ema_decay: Decay of the averaged weights that are validated and exported; None: no average. The average
            starts from the weights after the first step.
        ema_warmup: Use a smaller decay in the first steps (timm's ``ModelEmaV3``).
        log_every, validate_every, checkpoints.every: Intervals in optimizer steps.
        num_samples: Reconstructions to write at each validation, per modality.
        quantization: Interpolation factor of the decoder's input in training: 0 is latents, 1 is codes. A number or a
            schedule, such as [(0, 0.0), (1000, 1.0)].
        gradient_clipping: Largest gradient norm of each network, such as dict(tokenizer=1.0, discriminator=1.0);
            a network that is not named is not clipped. The norm of the tokenizer includes the parameters of losses.
        max_skipped_in_a_row: Largest number of skipped steps in a row; one more ends the run. A step with a nonfinite
            loss or gradient is skipped on all processes.
        max_unreadable_share: Largest allowed share of unreadable samples; above it the run ends.
        init_from: A tokenizer directory, hub id or shipped name to start from: the same network, or its image version,
            which is inflated. Optimizers and EMA start anew. If the config has no ``tokenizer``, init_from's network is
            used.
        init_revision, init_subfolder: ``revision`` and ``subfolder`` of init_from, see ``load_tokenizer``. run.json
            has the commit of a hub id, or the package version of a shipped name.
        trainable: Modules to train, such as ["decoder"] or ["decoder.levels.3"]; the others are frozen. None: all.
    """

    max_steps: int | None = None
    max_flops: float | None = None
    learning_rate: float = 1e-4
    discriminator_learning_rate: float | None = None
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.0, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    trackers: Sequence[str] = ("tensorboard",)
    gradient_accumulation_steps: int = 1
    global_batch_size: int | None = None
    mixed_precision: str = "no"
    activation_checkpointing: bool | int = False
    compile: bool = False
    ema_decay: float | None = 0.999
    ema_warmup: bool = False
    log_every: int = 10
    validate_every: int = 1000
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    num_samples: int = 4
    quantization: PiecewiseLinear = 1.0
    gradient_clipping: Mapping[str, float] = field(default_factory=dict)
    max_skipped_in_a_row: int = 20
    max_unreadable_share: float = 0.05
    init_from: str | None = None
    init_revision: str | None = None
    init_subfolder: str | None = None
    trainable: Sequence[str] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Read the section; a ConfigError names all unknown keys, or the first wrong value."""
        check_keys("training", config, [f.name for f in fields(cls)])
        checkpoints = config.get("checkpoints", {})
        check_keys("training.checkpoints", checkpoints, [f.name for f in fields(CheckpointSettings)])
        return cls(**{**config, "checkpoints": CheckpointSettings(**checkpoints)})

    def with_micro_batches(self, batch_sizes: Iterable[int], *, num_processes: int) -> Settings:
        """The settings with ``gradient_accumulation_steps`` computed from ``global_batch_size``."""
        if self.global_batch_size is None:
            return self
        sizes, total = set(batch_sizes), self.global_batch_size
        if len(sizes) > 1:
            raise ConfigError(f"training.global_batch_size needs one batch_size in all of data.train, got "
                              f"{sorted(sizes)}; make them equal, or set gradient_accumulation_steps instead.")
        batch_size, = sizes
        num_micro_batches, remainder = divmod(total, batch_size * num_processes)
        if remainder:
            per_process, remainder = divmod(total, num_processes)
            fitting = max(size for size in range(1, batch_size + 1) if per_process % size == 0)
            advice = (f"take a number of processes that divides {total}" if remainder
                      else f"set data.train.batch_size={fitting}")
            raise ConfigError(f"training.global_batch_size={total} must be a multiple of data.train.batch_size x "
                              f"processes, got {batch_size} x {num_processes}; {advice}.")
        return replace(self, global_batch_size=None, gradient_accumulation_steps=num_micro_batches)

    def __post_init__(self) -> None:
        value_at(self.quantization, 0, name="training.quantization")  # raises an error for a malformed schedule
        points = self.quantization if isinstance(self.quantization, list | tuple) else [(0, self.quantization)]
        checks = [  # (name, whether the value is valid, what is required)
            *((name, _is_count(attrgetter(name)(self)), "must be a whole number of at least 1")
              for name in ("max_steps", "gradient_accumulation_steps", "global_batch_size", "log_every",
                           "validate_every", "num_samples", "checkpoints.every", "checkpoints.keep")),
            ("max_flops", _is_number(self.max_flops) and 0 < self.max_flops < math.inf, "must be a number above 0"),
            ("max_skipped_in_a_row", _is_count(self.max_skipped_in_a_row, least=0),
             "must be a whole number of at least 0"),
            *((name, _is_number(getattr(self, name)), "must be a number of at least 0")
              for name in ("learning_rate", "discriminator_learning_rate", "min_learning_rate", "warmup_steps", "eps",
                           "weight_decay", "max_unreadable_share")),
            ("ema_decay", _is_number(self.ema_decay) and self.ema_decay < 1, "must lie in [0, 1) or be None"),
            *((name, isinstance(getattr(self, name), Mapping), "must be dict(name=value)")
              for name in ("gradient_clipping", "optimizer", "schedule")),
            *((name, isinstance(getattr(self, name), bool), "must be True or False")
              for name in ("compile", "ema_warmup")),
            ("activation_checkpointing", _is_count(self.activation_checkpointing, least=0),
             "must be True, False or a number of levels"),
            ("betas", isinstance(self.betas, list | tuple) and len(self.betas) == 2
             and all(0 <= beta < 1 for beta in self.betas), "must be two numbers in [0, 1)"),
            ("quantization", all(0 <= value <= 1 for _, value in points), "must lie in [0, 1] at all steps"),
            ("init_from", isinstance(self.init_from, str), "must be a tokenizer directory, hub id or shipped name"),
            *((name, isinstance(getattr(self, name), str) and self.init_from, "must be text, with init_from")
              for name in ("init_revision", "init_subfolder")),
            ("trainable", self.trainable and _are_names(self.trainable), "must be a list of names such as ['decoder']"),
            ("trackers", _are_names(self.trackers), "must be a list of names such as ['tensorboard']"),
            ("mixed_precision", self.mixed_precision in ("no", "bf16", "fp16"), "must be 'no', 'bf16' or 'fp16'")]
        may_be_none = ("ema_decay", "checkpoints.keep", *(f.name for f in fields(self) if f.default is None))
        for name, is_valid, requirement in checks:
            value = attrgetter(name)(self)
            if not is_valid and not (value is None and name in may_be_none):
                raise ConfigError(f"training.{name} {requirement}, got {value!r}.")
        if self.max_steps is None and self.max_flops is None:
            raise ConfigError("training needs max_steps or max_flops, got neither; set one of them.")
        if self.max_steps is not None and self.max_flops is not None:
            raise ConfigError(f"training takes max_steps or max_flops, not both ({self.max_steps} and "
                              f"{self.max_flops:g}); set one to None, such as training.max_steps=None beside "
                              f"training.max_flops={self.max_flops:g}.")
        if self.global_batch_size is not None and self.gradient_accumulation_steps != 1:
            raise ConfigError("training takes global_batch_size or gradient_accumulation_steps, not both "
                              f"({self.global_batch_size} and {self.gradient_accumulation_steps}); remove one.")
        check_keys("training.gradient_clipping", self.gradient_clipping, ("tokenizer", "discriminator"))
        for name, value in self.gradient_clipping.items():
            if not _is_number(value) or value == 0:
                raise ConfigError(f"training.gradient_clipping.{name} must be a number above 0, got {value!r}.")


def _is_count(value: object, *, least: int = 1) -> bool:
    return isinstance(value, int) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)

"""Checks of quantizers in training: what is saved, what stays frozen, and two processes against one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toolkit.contracts import Quantizer, QuantizerOutput
from toolkit.contracts.quantizer import Grid
from toolkit.layers import mean_over_processes
from toolkit.registry import QUANTIZERS
from toolkit.testing.checks import Check, Record, near
from toolkit.testing.components import build_as, duplicate, seeded, state_of, tiny_latents, unchanged
from toolkit.testing.processes import on_two_processes

STEPS, BATCH, LEARNING_RATE = 3, 4, 0.1
_LATENTS = "gradient of the latents"
_STATISTICS = ("average what is no sum over samples, such as the frequencies in an entropy, by "
               "toolkit.layers.mean_over_processes before using it")
_STATE = ("take sums and counts over all processes (toolkit.layers.sum_over_processes, gather_over_processes) before "
          "updating running values, and share random draws by from_first_process")


def outputs(out: QuantizerOutput) -> dict[str, Tensor]:
    """Indices, if there are any, and codes."""
    return ({} if out.indices is None else {"indices": out.indices}) | {"codes": out.codes}


def train(quantizer: Quantizer, grid: Grid, *, seed: int) -> tuple[Quantizer, list[Record]]:
    """A trained copy, whose running values differ from the initial ones, and what each step computed."""
    copied = duplicate(quantizer).train()
    with Check(quantizer, "it can be trained"), seeded(seed):
        return copied, training_steps(copied, _batches(quantizer, grid))


def training_steps(quantizer: Quantizer, batches: Sequence[Tensor], *, share: slice = slice(None)) -> list[Record]:
    """Train a quantizer as the objective does, by plain gradient descent; gradients are averaged over processes."""
    records = []
    for number, batch in enumerate(batches):
        latents = batch[share].clone().requires_grad_()
        pull = torch.randn(batch.shape, generator=torch.Generator().manual_seed(100 + number))[share]
        out = quantizer(latents)
        # The pull stands for the decoder and its losses, which are means over the batch.
        total = (out.codes * pull).mean() + sum(
            quantizer.loss_weights[name] * loss for name, loss in out.losses.items())
        quantizer.zero_grad()
        total.backward()
        learning = {name: one for name, one in quantizer.named_parameters() if one.requires_grad}
        if lost := [name for name, one in learning.items() if one.grad is None]:
            raise ValueError(f"no gradient reaches {lost[0]}: data-parallel training would stop; use it in codes or "
                             "losses at every step, or make it a buffer")
        record = outputs(out) | {f"loss {name}": loss for name, loss in out.losses.items()}
        # Times the number of samples, so that the gradient of a sample does not depend on its share.
        record[_LATENTS] = torch.zeros_like(latents) if latents.grad is None else latents.grad * len(latents)
        for name, parameter in learning.items():
            record[f"gradient of {name}"] = mean_over_processes(parameter.grad)
            parameter.data.sub_(LEARNING_RATE * record[f"gradient of {name}"])
        record |= {f"state {name}": tensor for name, tensor in state_of(quantizer).items()}
        records.append({name: tensor.detach().clone() for name, tensor in record.items()})
    return records


def check_training(quantizer: Quantizer, trained: Quantizer, loaded: Quantizer, *, grid: Grid,
                   processes: Sequence[int]) -> None:
    """Check the training of a quantizer; ``loaded`` is the trained one, saved and loaded."""
    _check_frozen(quantizer, grid)
    _check_seeding(quantizer, grid)
    _check_resuming(trained, loaded, grid)
    if 2 in processes:
        _check_processes(quantizer, grid)


def _check_frozen(quantizer: Quantizer, grid: Grid) -> None:
    """Check that a quantizer in train mode changes no state if ``frozen`` is set on it and its children."""
    copied = duplicate(quantizer).train()
    for module in copied.modules():
        if isinstance(module, Quantizer):
            module.frozen = True
    do = "update a codebook or running values only if self.training and not self.frozen"
    with Check(quantizer, "frozen, it changes no state in train mode") as checked, unchanged(checked, copied, do=do):
        for batch in _batches(quantizer, grid):
            copied(batch)


def _check_seeding(quantizer: Quantizer, grid: Grid) -> None:
    """Check that two trainings with the same seed are equal."""
    runs = [train(quantizer, grid, seed=0)[1] for _ in range(2)]
    with Check(quantizer, "random numbers of training come from torch's generator") as checked:
        for first, second in zip(*runs, strict=True):
            checked.need_near(second, first, rel=1e-6, needed="under the same seed the same training",
                              do="draw from torch's global generator, by which a run is seeded and resumed")


def _check_resuming(trained: Quantizer, loaded: Quantizer, grid: Grid) -> None:
    """Check that a trained quantizer and the same one saved and loaded have the same next training step."""
    with Check(trained, "saved and loaded, it goes on training alike") as checked:
        steps = []
        for one in (duplicate(trained), loaded):
            with seeded(2):
                steps += training_steps(one.train(), _batches(one, grid)[:1])
        checked.need_near(steps[1], steps[0], needed="at the next step what the one that was saved computes",
                          do="keep all that changes in training in parameters or persistent buffers, and every choice "
                             "in the arguments")


def _check_processes(quantizer: Quantizer, grid: Grid) -> None:
    """Check that two processes with half of a batch each train like one with the whole batch.

    Values that differ between two seeds on one process are random, and are not compared with the joined batch.
    """
    # Sent as weights to load, since modules with weight norm and the like cannot be pickled.
    recipe = type(quantizer), quantizer.config, duplicate(quantizer).state_dict(), _batches(quantizer, grid)
    with Check(quantizer, "two processes train like one with the joined batch") as checked:
        runs = []
        for seed in (0, 1):
            with seeded(seed):
                runs.append(_train_share(*recipe, slice(None)))
        random = {name for left, right in zip(*runs, strict=True) for name in left
                  if not near(left[name], right[name], rel=1e-6)}
        halves = slice(0, BATCH // 2), slice(BATCH // 2, BATCH)
        results = on_two_processes(checked, _train_share, [(*recipe, half) for half in halves])
        for step, (whole, first, second) in enumerate(zip(runs[0], *results, strict=True)):
            _compare(checked, step, whole, first, second, random=random)


def _batches(quantizer: Quantizer, grid: Grid) -> list[Tensor]:
    return [tiny_latents(dim=quantizer.dim, batch=BATCH, grid=grid, seed=10 + step) for step in range(STEPS)]


def _train_share(kind: type[Quantizer], config: dict[str, Any], weights: dict[str, Tensor], batches: list[Tensor],
                 share: slice) -> list[Record]:
    """Train the quantizer of this config and these weights on a share of each batch."""
    quantizer = build_as(kind, config, QUANTIZERS)
    quantizer.load_state_dict(weights)
    return training_steps(quantizer.train(), batches, share=share)


def _compare(checked: Check, step: int, whole: Record, first: Record, second: Record, *, random: set[str]) -> None:
    """Compare one step of two processes with that of one process with the joined batch."""
    shared = {name: tensor for name, tensor in first.items()  # first what is to be one, as all else follows from it
              if name.startswith(("state ", "gradient of ")) and name != _LATENTS}
    checked.need_near(second, shared, needed=f"the same state in both processes at step {step}", do=_STATE)
    for name, expected in whole.items():
        is_gradient = name.startswith("gradient of ")
        if name in random or (is_gradient and random & {"codes", "indices"}):  # gradients are random then
            continue
        if name in ("codes", "indices", _LATENTS):
            joined = torch.cat([first[name], second[name]])
        else:
            joined = ((first[name].double() + second[name].double()) / 2).to(expected.dtype)
        checked.need_near({name: joined}, {name: expected}, rel=2e-5, floor=1e-6,
                          needed=f"at step {step} the {name} of the joined batch",
                          do=_STATISTICS if is_gradient or name.startswith("loss ") else _STATE)

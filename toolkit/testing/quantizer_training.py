"""Checks of quantizers in training: what is saved, what stays frozen, and two processes against one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from toolkit.contracts import Quantizer
from toolkit.contracts.quantizer import Grid
from toolkit.layers import mean_over_processes
from toolkit.registry import QUANTIZERS
from toolkit.testing.checks import Check, check
from toolkit.testing.components import build_as, changes, duplicate, near, reloaded, seeded, state_of, tiny_latents
from toolkit.testing.processes import on_two_processes

STEPS, BATCH, LEARNING_RATE = 3, 4, 0.1
_LATENTS = "gradient of the latents"
Recipe = tuple[type[Quantizer], dict[str, Any], dict[str, Tensor]]  # class, config and weights
Record = dict[str, Tensor]  # of one step: what was computed and what it left


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
        record = {"codes": out.codes} | ({} if out.indices is None else {"indices": out.indices})
        record |= {f"loss {name}": loss for name, loss in out.losses.items()}
        if lost := [name for name, one in quantizer.named_parameters() if one.requires_grad and one.grad is None]:
            raise ValueError(f"no gradient reaches {lost[0]}: data-parallel training would stop; use it in codes or "
                             "losses at every step, or make it a buffer")
        record[_LATENTS] = torch.zeros_like(latents) if latents.grad is None else latents.grad
        for name, parameter in quantizer.named_parameters():
            if parameter.requires_grad:
                record[f"gradient of {name}"] = mean_over_processes(parameter.grad)
                parameter.data.sub_(LEARNING_RATE * record[f"gradient of {name}"])
        record |= {f"state {name}": tensor for name, tensor in state_of(quantizer).items()}
        records.append({name: tensor.detach().clone() for name, tensor in record.items()})
    return records


def check_frozen(quantizer: Quantizer, grid: Grid) -> None:
    """Check that a quantizer in train mode changes no state if ``frozen`` is set on it and its children."""
    copied = duplicate(quantizer).train()
    for module in copied.modules():
        if isinstance(module, Quantizer):
            module.frozen = True
    before = state_of(copied)
    with check(quantizer, "frozen, it changes no state in train mode") as checked:
        for seed in range(STEPS):
            copied(tiny_latents(dim=copied.dim, grid=grid, seed=seed))
        touched = changes(copied, before)
        checked.need(not touched, needed="parameters and buffers as before, since frozen is True",
                     got=f"changes of {touched}",
                     do="update a codebook or running values only if self.training and not self.frozen")


def check_seeding(quantizer: Quantizer, grid: Grid) -> None:
    """Check that two trainings with the same seed are equal."""
    copied, batches = duplicate(quantizer).train(), _batches(quantizer, grid)
    with check(quantizer, "random numbers of training come from torch's generator") as checked:
        again = _differing(*(_run(copied, batches, seed=0) for _ in range(2)))
        checked.need(not again, needed="under the same seed the same training", got=f"other {sorted(again)}",
                     do="draw from torch's global generator, by which a run is seeded and resumed")


def check_loading(quantizer: Quantizer, grid: Grid) -> None:
    """Check that a trained, saved and loaded quantizer has the same outputs and the same next training step."""
    copied, batches = duplicate(quantizer).train(), _batches(quantizer, grid)
    with check(quantizer, "it can be trained"), seeded(1):
        training_steps(copied, batches)
    other = reloaded(copied, QUANTIZERS)
    do = "keep all that changes in training in parameters or persistent buffers, and every choice in the arguments"
    with check(quantizer, "saved and loaded, it gives the same") as checked:
        with torch.no_grad():
            expected, result = (one.eval()(batches[0]) for one in (copied, other))
        if expected.indices is not None:
            checked.need(torch.equal(result.indices, expected.indices), needed="the indices of the one that was saved",
                         got="others", do=do)
        checked.need(near(result.codes, expected.codes, rel=1e-6), needed="the codes of the one that was saved",
                     got="others", do=do)
    with check(quantizer, "saved and loaded, it goes on training alike") as checked:
        results = []
        for one in (copied, other):
            with seeded(2):
                results.append(training_steps(one.train(), batches[:1])[0])
        for name in results[0]:
            checked.need(near(results[1][name], results[0][name], rel=1e-5),
                         needed=f"at the next step the {name} of the one that was saved", got="another", do=do)


def check_processes(quantizer: Quantizer, grid: Grid) -> None:
    """Check that two processes with half of a batch each train like one with the whole batch.

    Values that differ between two seeds on one process are random, and are not compared with the joined batch.
    """
    # Sent as weights to load, since modules with weight norm and the like cannot be pickled.
    recipe = type(quantizer), quantizer.config, duplicate(quantizer).state_dict()
    copied, batches = _again(*recipe), _batches(quantizer, grid)
    joined = _run(copied, batches, seed=0)
    random = _differing(joined, _run(copied, batches, seed=1))
    with check(quantizer, "two processes train like one with the joined batch") as checked:
        halves = [slice(0, BATCH // 2), slice(BATCH // 2, BATCH)]
        results = on_two_processes(checked, _train_share, [(recipe, batches, half) for half in halves])
        for step, (whole, first, second) in enumerate(zip(joined, *results, strict=True)):
            _compare(checked, step, whole, first, second, random=random)


def _batches(quantizer: Quantizer, grid: Grid) -> list[Tensor]:
    return [tiny_latents(dim=quantizer.dim, batch=BATCH, grid=grid, seed=10 + step) for step in range(STEPS)]


def _run(quantizer: Quantizer, batches: list[Tensor], *, seed: int) -> list[Record]:
    with check(quantizer, "it can be trained"), seeded(seed):
        return training_steps(duplicate(quantizer), batches)


def _again(kind: type[Quantizer], config: dict[str, Any], weights: dict[str, Tensor]) -> Quantizer:
    """The quantizer of this config and these weights, in train mode."""
    quantizer = build_as(kind, config, QUANTIZERS)
    quantizer.load_state_dict(weights)
    return quantizer.train()


def _train_share(share: tuple[Recipe, list[Tensor], slice]) -> list[Record]:
    """Train on half of each batch: the function of each of the two processes."""
    recipe, batches, half = share
    return training_steps(_again(*recipe), batches, share=half)


def _differing(one: list[Record], other: list[Record]) -> set[str]:
    return {name for left, right in zip(one, other, strict=True) for name in left.keys() | right.keys()
            if name not in left or name not in right or not near(left[name], right[name], rel=1e-6)}


def _compare(checked: Check, step: int, whole: Record, first: Record, second: Record, *, random: set[str]) -> None:
    """Compare one step of two processes with that of one process with the joined batch."""
    chance = bool(random & {"codes", "indices"})  # every gradient then depends on random numbers
    for name in whole:  # first what is to be one, as all else follows from it
        if name.startswith(("state ", "gradient of ")) and name != _LATENTS:
            checked.need(near(second[name], first[name]), do=_STATE, got=_shown(second[name], first[name]),
                         needed=f"one {name} in both processes at step {step}")
    for name, expected in whole.items():
        kind = name.split(" ")[0]
        joined, do = _JOINED[name if name == _LATENTS else kind]
        if name not in random and not (chance and kind == "gradient"):
            result = joined(first[name], second[name])
            checked.need(near(result.to(expected.dtype), expected, rel=2e-5, floor=1e-6), do=do,
                         needed=f"at step {step} the {name} of the joined batch", got=_shown(result, expected))


def _shown(result: Tensor, expected: Tensor) -> str:
    if result.shape != expected.shape:
        return f"{tuple(result.shape)} instead of {tuple(expected.shape)}"
    if result.numel() == 1:
        return f"{result.item():.6g} instead of {expected.item():.6g}"
    return f"a largest difference of {(result.double() - expected.double()).abs().max().item():.3g}"


def _both(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second])


def _both_of_the_mean(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second]) / 2  # each process's total is the mean over half as many samples


def _mean(first: Tensor, second: Tensor) -> Tensor:
    return (first.double() + second.double()) / 2


_STATISTICS = ("average what is no sum over samples, such as the frequencies in an entropy, by "
               "toolkit.layers.mean_over_processes before using it")
_STATE = ("take sums and counts over all processes (toolkit.layers.sum_over_processes, gather_over_processes) before "
          "updating running values, and share random draws by from_first_process")
_JOINED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "codes": (_both, _STATE), "indices": (_both, _STATE), "loss": (_mean, _STATISTICS), "state": (_mean, _STATE),
    "gradient": (_mean, _STATISTICS), _LATENTS: (_both_of_the_mean, _STATISTICS),
}

"""Optimizers and learning rates by timm's names."""

import math

import pytest
import torch
from accelerate import Accelerator
from timm.optim import Lion
from torch import nn

from toolkit.config import ConfigError
from toolkit.training.optimizer import OptimizerState, optimizer_state_ratio
from toolkit.training.settings import Settings


def trained(layer: nn.Module | None = None, *, learning_rate: float = 1e-2, **settings) -> OptimizerState:
    return OptimizerState(nn.Linear(1, 1) if layer is None else layer, learning_rate=learning_rate,
                            settings=Settings(**{"max_steps": 100} | settings), accelerator=Accelerator(cpu=True))


def rates(*, steps: list[int], **settings) -> list[float]:
    state, found = trained(**{"warmup_steps": 10, "min_learning_rate": 1e-4} | settings), []
    for step in steps:
        state.update(step)
        found.append(state.learning_rate)
    return found


def cosine(step: int) -> float:
    return 1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi * step / 100)) / 2


def test_warm_up_is_linear_from_zero_and_the_cosine_runs_over_the_whole_run():
    expected = {0: 0.0, 5: 5e-3, 9: 9e-3, 10: cosine(10), 50: cosine(50), 99: cosine(99), 100: 1e-4, 150: 1e-4}
    assert rates(steps=list(expected)) == pytest.approx(list(expected.values()), rel=1e-6, abs=1e-12)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert rates(steps=[0, 1], warmup_steps=0) == pytest.approx([1e-2, cosine(1)], rel=1e-6)


def test_a_step_uses_the_rate_of_its_own_number():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    state = trained(layer, warmup_steps=10)
    state.wrapped(torch.ones(1, 1)).sum().backward()
    state.update(4)  # Adam's first step is the rate, whatever the gradient
    assert layer.weight.item() == pytest.approx(-4e-3, rel=1e-5)
    assert layer.weight.grad is None


def test_the_configs_settings_hold_after_resuming_as_its_rate_does():
    before, after = trained(), trained(betas=(0.5, 0.9), eps=0.25, weight_decay=0.125)
    before.backward(before.wrapped(torch.ones(1, 1)).sum())
    before.update(0)
    after.load_state_dict(before.state_dict())
    group, = after.optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.9), 0.25, 0.125)
    assert all(torch.equal(after.optimizer.state[new]["exp_avg_sq"], before.optimizer.state[old]["exp_avg_sq"])
               for new, old in zip(after.network.parameters(), before.network.parameters(), strict=True))


@pytest.mark.parametrize("sched", ["none", "cosine"])
def test_a_resumed_run_steps_with_the_rate_of_the_config(sched):
    before, after = trained(schedule=dict(sched=sched)), trained(schedule=dict(sched=sched), learning_rate=1e-3)
    after.load_state_dict(before.state_dict())
    after.update(0)
    assert after.learning_rate == 1e-3


def test_in_fp16_a_gradient_is_an_overflow_only_while_it_is_scaled_up():
    """From a scale of 2^16 it takes 16 halvings until a gradient that is still not finite can be no overflow."""
    layer = nn.Linear(1, 1)
    state, before, norms = trained(layer, mixed_precision="fp16"), layer.weight.item(), []
    for step in range(18):
        state.backward(layer(torch.full((1, 1), float("nan"))).sum())
        norms.append(state.clip_gradients().item())
        state.update(step)
    assert norms[:16] == [0.0] * 16 and all(map(math.isnan, norms[16:]))
    assert layer.weight.item() == before


@pytest.mark.parametrize(("options", "kind"), [({}, torch.optim.Adam), (dict(opt="adamw"), torch.optim.AdamW),
                                               (dict(opt="sgd", momentum=0.5), torch.optim.SGD),
                                               (dict(opt="lion", betas=(0.9, 0.8)), Lion)])
def test_an_optimizer_has_timms_name_and_the_configs_options(options, kind):
    optimizer = trained(optimizer=options, betas=(0.5, 0.9), weight_decay=0.125).optimizer
    group, = optimizer.param_groups
    assert type(optimizer) is kind and group["weight_decay"] == 0.125
    assert group.get("betas") == (None if kind is torch.optim.SGD else options.get("betas", (0.5, 0.9)))
    assert group.get("momentum") == options.get("momentum")
    assert bool(group.get("fused")) == (kind in (torch.optim.Adam, torch.optim.AdamW))


def test_a_schedule_has_timms_name_and_counts_optimizer_steps():
    step = dict(sched="step", decay_epochs=20, decay_rate=0.5)
    assert rates(steps=[0, 5, 19, 20, 45], schedule=step) == pytest.approx([0, 5e-3, 1e-2, 5e-3, 2.5e-3])
    assert rates(steps=[0, 50], schedule=dict(sched="none"), warmup_steps=0) == [1e-2, 1e-2]
    assert rates(steps=[2, 50], schedule=dict(sched="constant", warmup_epochs=4)) == [5e-3, 1e-2]


@pytest.mark.parametrize(("settings", "words"), [
    (dict(optimizer=dict(opt="adm")), "training.optimizer.opt must be one of timm"),
    (dict(optimizer=dict(opt=1)), "training.optimizer.opt is the name of an optimizer, got 1"),
    (dict(schedule=dict(sched="none"), warmup_steps=3), "sched='none' has no warm-up, got warmup_steps=3"),
    (dict(optimizer=dict(opt="adam", beta=3)), "training.optimizer=.*beta"),
    (dict(schedule=dict(sched="cosin")), "training.schedule=.*Unknown scheduler 'cosin'"),
    (dict(schedule=dict(sched="plateau")), "training.schedule=.*only supports step per epoch"),
    (dict(schedule=dict(warmup=3)), "training.schedule=.*unexpected keyword argument 'warmup'")])
def test_an_optimizer_or_schedule_that_timm_does_not_have_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        rates(steps=[0], **settings)


def test_the_state_of_another_optimizer_is_refused():
    with pytest.raises(ConfigError, match="must be that of the checkpoint, Adam, got Lion"):
        trained(optimizer=dict(opt="lion")).load_state_dict(trained().state_dict())


@pytest.mark.parametrize(("options", "ratio"), [({}, 2), (dict(opt="lion"), 1), (dict(opt="sgd"), 1)])
def test_state_of_an_optimizer_is_counted_in_weights(options, ratio):
    assert optimizer_state_ratio(Settings(max_steps=1, optimizer=options)) == ratio

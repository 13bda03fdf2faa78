"""Every term of the objective: its weight, when it is computed, and whose gradients it makes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training.tiny import ADVERSARIAL, DISCRIMINATOR

from toolkit.config import ConfigError
from toolkit.contracts import Discriminator, Loss, TokenizerOutput
from toolkit.quantizers import LFQ
from toolkit.registry import DISCRIMINATORS, LOSSES
from toolkit.training import build_objective
from toolkit.training.objective import frozen


@LOSSES.register_module(name="CountingL1ForTests")
class CountingL1(Loss):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, output, target):
        self.calls += 1
        return (output.reconstruction - target).abs().mean()


class Linear(Discriminator):
    """logit = <slope, pixels>."""

    in_channels, size = 3, None

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.linspace(-1, 1, 3 * 2 * 4 * 4).reshape(3, 2, 4, 4))
        self.calls = 0

    def forward(self, pixels):
        self.calls += 1
        return (pixels * self.slope).flatten(1).sum(1, keepdim=True)


def a_clip(*, seed: int = 0, size=(2, 4, 4)) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def an_output(**losses) -> TokenizerOutput:
    reconstruction = a_clip(seed=1).requires_grad_()
    return TokenizerOutput(reconstruction, latents=reconstruction, codes=reconstruction, indices=None,
                           losses={name: torch.tensor(value) for name, value in losses.items()})


def l1_term(weight) -> dict:
    return dict(losses=dict(pixels=dict(loss=dict(type="CountingL1ForTests"), weight=weight)))


def adversarial(**changes) -> dict:
    return dict(adversarial=dict(loss=dict(type="NonSaturating"), weight=0.1, discriminator_weight=2.0) | changes)


def test_total_is_the_weighted_sum_of_all_terms():
    objective = build_objective(l1_term(3.0) | adversarial() | dict(quantizer=dict(commitment=0.5, entropy=-2.0)))
    output, target, net = an_output(commitment=0.7, entropy=1.5), a_clip(), Linear()
    total, scalars = objective.generator_loss(output, target, step=0, discriminator=net)
    pixels = (output.reconstruction - target).abs().mean().item()
    game = F.softplus(-net(output.reconstruction)).mean().item()
    assert total.item() == pytest.approx(3 * pixels + 0.5 * 0.7 - 2 * 1.5 + 0.1 * game, rel=1e-5)
    assert {name: value.item() for name, value in scalars.items()} == pytest.approx(
        dict(pixels=pixels, commitment=0.7, entropy=1.5, adversarial=game, total=total.item()), rel=1e-5)


def test_a_term_without_weight_is_not_computed():
    objective = build_objective(l1_term([(3, 0.0), (3, 1.0)]))
    for step in range(5):
        _, scalars = objective.generator_loss(an_output(), a_clip(), step=step)
        assert ("pixels" in scalars) == (step >= 3)
    assert objective.losses["pixels"].calls == 2


@pytest.mark.parametrize("config", [{}, dict(losses=None, adversarial=None, quantizer=None),
                                    dict(losses=dict(pixels=None))])
def test_absent_terms_leave_a_total_of_zero(config):
    total, scalars = build_objective(config).generator_loss(an_output(), a_clip(), step=0)
    assert total.item() == 0 and list(scalars) == ["total"]


def test_without_an_adversarial_weight_the_discriminator_is_not_asked():
    objective, net = build_objective(adversarial(weight=[(2, 0.0), (2, 0.1)])), Linear()
    for step in range(3):
        _, scalars = objective.generator_loss(an_output(), a_clip(), step=step, discriminator=net)
        assert ("adversarial" in scalars) == (step >= 2)
    assert net.calls == 1


@pytest.mark.parametrize("term", ["lecam", "r1"])
def test_lecam_and_r1_without_weight_are_not_computed(term):
    options = dict(lecam=dict(weight=[(2, 0.0), (2, 1.0)], decay=0.5), r1=dict(weight=[(2, 0.0), (2, 1.0)]))
    objective, net = build_objective(adversarial(**{term: options[term]})), Linear()
    for step in range(3):
        _, scalars = objective.discriminator_loss(an_output(), a_clip(), step=step, discriminator=net)
        assert {"lecam", "r1"} & set(scalars) == ({term} if step >= 2 else set())
        if term == "lecam":
            assert (objective.adversaries["video"].lecam.average_real == 0) == (step < 2)
    assert net.calls == (4 if term == "r1" else 3)  # R1 has a forward pass of its own


def test_the_generators_step_gives_the_discriminator_no_gradients():
    objective = build_objective(l1_term(1.0) | adversarial())
    output, net = an_output(), Linear()
    seen = []
    net.register_forward_pre_hook(lambda module, _: seen.append(module.slope.requires_grad))
    total, _ = objective.generator_loss(output, a_clip(), step=0, discriminator=net)
    total.backward()
    assert seen == [False] and net.slope.requires_grad and net.slope.grad is None
    # 0.1 d/dx mean softplus(-<s, x>) and d/dx mean |x - target|
    pixels = output.reconstruction.detach()
    game = -0.1 / 2 * torch.sigmoid(-net(pixels))[:, :, None, None, None] * net.slope.detach()
    assert torch.allclose(output.reconstruction.grad, game + (pixels - a_clip()).sign() / pixels.numel(), atol=1e-7)


def test_frozen_restores_what_asked_for_gradients_even_after_an_error():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(layer):
        assert not layer.weight.requires_grad
        raise ZeroDivisionError
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_requires_grad_is_restored_when_the_discriminator_refuses_its_input():
    net = DISCRIMINATORS.build(DISCRIMINATOR)
    objective = build_objective(adversarial())
    with pytest.raises(ValueError, match="size"):
        objective.generator_loss(an_output(), a_clip(), step=0, discriminator=net)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_discriminators_step_gives_the_tokenizer_no_gradients():
    objective, net, output = build_objective(adversarial()), Linear(), an_output()
    total, _ = objective.discriminator_loss(output, a_clip(), step=0, discriminator=net)
    total.backward()
    assert output.reconstruction.grad is None and net.slope.grad is not None


def test_the_discriminators_game_has_its_weight():
    objective, net, output, target = build_objective(adversarial()), Linear(), an_output(), a_clip()
    total, scalars = objective.discriminator_loss(output, target, step=0, discriminator=net)
    real, fake = net(target), net(output.reconstruction)
    game = (F.softplus(-real).mean() + F.softplus(fake).mean()).item()
    assert total.item() == pytest.approx(2 * game, rel=1e-5)
    assert scalars["logits_real"].item() == pytest.approx(real.mean().item(), rel=1e-5)
    assert scalars["logits_fake"].item() == pytest.approx(fake.mean().item(), rel=1e-5)


def test_lazy_r1_is_taken_at_multiples_and_scaled_by_its_interval():
    net, output, target = Linear(), an_output(), a_clip()
    plain = build_objective(adversarial())
    lazy = build_objective(adversarial(r1=dict(weight=0.5, every=3)))
    slope = net.slope.square().sum().item()
    for step in range(7):
        totals = [objective.discriminator_loss(output, target, step=step, discriminator=net)[0].item()
                  for objective in (plain, lazy)]
        expected = 0.5 * 3 * slope if step % 3 == 0 else 0.0
        assert totals[1] - totals[0] == pytest.approx(expected, abs=1e-4)


def test_each_modality_has_its_own_lecam_averages():
    objective = build_objective(dict(adversarial=ADVERSARIAL), modalities=("image", "video"))
    objective.discriminator_loss(an_output(), a_clip(), step=0, discriminator=Linear(), modality="video")
    state = objective.state_dict()
    assert state["adversaries.video.lecam.average_real"] != 0 == state["adversaries.image.lecam.average_real"]


def test_the_papers_weights_hold_where_the_config_is_silent():
    objective = build_objective(dict(quantizer=dict(commitment=9.0)), quantizer=LFQ(bits=4))
    assert objective.quantizer_weights == {**LFQ.loss_weights, "commitment": 9.0}


def test_a_quantizer_loss_without_a_weight_is_an_error():
    with pytest.raises(KeyError, match="surprise"):
        build_objective({}).generator_loss(an_output(surprise=1.0), a_clip(), step=0)


def test_a_weight_for_a_loss_of_another_quantizer_is_ignored_and_logged(caplog):
    with caplog.at_level("INFO"):
        build_objective(dict(quantizer=dict(orthogonality=1.0)), quantizer=LFQ(bits=4))
    assert [record.message for record in caplog.records if "orthogonality" in record.message]


@pytest.mark.parametrize(("config", "words"), [
    (dict(loss={}), "objective has no key 'loss'.*losses"),
    (dict(losses=dict(pixels=dict(loss=dict(type="L1")))), "objective.losses.pixels needs"),
    (dict(losses=dict(pixels=dict(type="L1", weight=1.0))), "objective.losses.pixels has no key 'type'"),
    (dict(adversarial=dict(loss=dict(type="Hinge"), lecam=dict(wait=1.0))), "lecam has no key 'wait'"),
    (dict(adversarial=dict(loss=dict(type="Hinge"), r1=dict(weight=1.0, evry=2))), "r1 has no key 'evry'"),
])
def test_misfits_in_the_config_are_named(config, words):
    with pytest.raises(ConfigError, match=words):
        build_objective(config)


@pytest.mark.parametrize("config", [
    dict(losses=dict(pixels=dict(loss=dict(type="L1"), weight="heavy"))),
    dict(quantizer=dict(commitment=[(5, 1.0), (0, 2.0)])),
    dict(adversarial=dict(loss=dict(type="Hinge"), weight=None)),
])
def test_a_malformed_weight_is_refused_before_training(config):
    with pytest.raises(ValueError, match="a weight is a number or a list of points"):
        build_objective(config)


def test_at_the_start_the_non_saturating_game_is_two_log_two():
    net = Linear()
    nn.init.zeros_(net.slope)
    _, scalars = build_objective(adversarial()).discriminator_loss(an_output(), a_clip(), step=0, discriminator=net)
    assert scalars["discriminator"].item() == pytest.approx(2 * math.log(2))

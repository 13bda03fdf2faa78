"""The losses and gradients of O2-MAGVIT2, number by number (tests/golden/README.md); its outputs: tests/interop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from interop.foreign import foreign, o2_trainer
from torch import Tensor, nn

from toolkit import build_objective
from toolkit.interop import Layout, convert_tensors
from toolkit.interop.o2_magvit2 import O2MAGVIT2, O2Discriminator
from toolkit.losses import Hinge
from toolkit.training.objective import Objective

TOLERANCE = 1e-4  # relative, in float32 and between two orders of summation
# A bias gradient sums thousands of positions that nearly cancel: in float32 that of the discriminator's conv_in is
# 1.2e-4 off, in float64 below 1e-5.
GRADIENT_TOLERANCE = 3e-4


@pytest.fixture(scope="module", params=["o2_video_tiny", "o2_image_tiny"])
def case(request) -> SimpleNamespace:
    """A reference network as ours: tokenizer, discriminator, their layouts, the input and O2's numbers."""
    theirs = foreign(request.param)
    conversion = convert_tensors(o2_trainer(theirs.tensors, None, theirs.discriminator))
    return SimpleNamespace(
        tokenizer=conversion.tokenizer, discriminator=conversion.discriminator, pixels=theirs.pixels, info=theirs.info,
        layout=O2MAGVIT2().bind(theirs.tensors), discriminator_layout=O2Discriminator().bind(theirs.discriminator))


@pytest.fixture
def objective(case) -> Objective:
    """O2's weights; its LeCAM averages fixed at 0.05 and -0.05 and its R1 of 10 taken at every step."""
    objective = build_objective(dict(
        losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0)),
        quantizer=dict(commitment=0.25, per_sample_entropy=0.1, codebook_entropy=-0.1),
        adversarial=dict(loss=dict(type="NonSaturating"), weight=0.1, discriminator_weight=1.0,
                         lecam=dict(weight=0.001), r1=dict(weight=10.0, every=1))),
        quantizer=case.tokenizer.quantizer)
    lecam = objective.adversaries["video"].lecam
    lecam.average_real.fill_(0.05)
    lecam.average_fake.fill_(-0.05)
    return objective.eval()  # LeCAM updates its averages in train mode only


def generator_step(case: SimpleNamespace, objective: Objective):
    output = case.tokenizer.train()(case.pixels)
    total, scalars = objective.generator_loss(output, case.pixels, step=0, discriminator=case.discriminator)
    return output, total, scalars


def discriminator_step(case: SimpleNamespace, objective: Objective):
    output = case.tokenizer.train()(case.pixels)
    return objective.discriminator_loss(output, case.pixels, step=0, discriminator=case.discriminator)


def close(value: Tensor, expected: float) -> None:
    assert value.item() == pytest.approx(expected, rel=TOLERANCE, abs=1e-9)


def gradient_norms_agree(module: nn.Module, total: Tensor, layout: Layout, expected: dict[str, float]) -> None:
    module.zero_grad()
    total.backward()
    found = {layout.their_name(name): parameter.grad.norm().item() for name, parameter in module.named_parameters()}
    assert found == pytest.approx(expected, rel=GRADIENT_TOLERANCE, abs=1e-7)


def test_quantizer_losses_are_those_of_o2(case, objective):
    expected = case.info["losses"]
    output, _, scalars = generator_step(case, objective)
    for name in ("per_sample_entropy", "codebook_entropy", "commitment"):
        close(scalars[name], expected[name])
    weights = objective.quantizer_weights
    close(sum(weights[name] * loss for name, loss in output.losses.items()),
          expected["quantizer_total_at_entropy_weight_0_1"])


def test_generator_losses_are_those_of_o2(case, objective):
    expected = case.info["losses"]
    _, total, scalars = generator_step(case, objective)
    close(scalars["reconstruction"], expected["reconstruction_mse"])
    close(scalars["adversarial"], expected["generator_nonsaturating"])
    close(scalars["total"], expected["generator_total"])
    close(total, expected["generator_total"])


def test_discriminator_losses_are_those_of_o2(case, objective):
    expected = case.info["losses"]
    total, scalars = discriminator_step(case, objective)
    close(scalars["discriminator"], expected["discriminator_nonsaturating"])
    close(scalars["lecam"], expected["lecam_with_ema_real_0_05_fake_minus_0_05"])
    # O2 adds 1e-6 inside its R1, so at weight 10 it is 1e-5 larger.
    close(10 * scalars["r1"] + 1e-5, expected["r1_cost_10"])
    close(total + 1e-5, expected["discriminator_total"])


@torch.no_grad()
def test_hinge_loss_is_that_of_o2(case):
    real = case.discriminator(case.pixels)
    fake = case.discriminator(case.tokenizer.train()(case.pixels).reconstruction)
    close(Hinge().discriminator(real, fake), case.info["losses"]["discriminator_hinge"])


def test_every_gradient_norm_of_the_discriminator_total_is_that_of_o2(case, objective):
    total, _ = discriminator_step(case, objective)
    gradient_norms_agree(case.discriminator, total, case.discriminator_layout,
                         case.info["gradient_norms_of_discriminator_total"])


@pytest.mark.parametrize(("step", "other"), [("generator", "discriminator"), ("discriminator", "tokenizer")])
def test_total_of_one_network_leaves_the_other_without_gradients(case, objective, step, other):
    network = getattr(case, other)
    network.zero_grad()
    total = generator_step(case, objective)[1] if step == "generator" else discriminator_step(case, objective)[0]
    total.backward()
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_every_gradient_norm_of_the_generator_total_is_that_of_o2(case, objective, activation_checkpointing,
                                                                  monkeypatch):
    for network in (case.tokenizer.encoder, case.tokenizer.decoder):
        monkeypatch.setattr(network, "activation_checkpointing", activation_checkpointing)
    _, total, _ = generator_step(case, objective)
    gradient_norms_agree(case.tokenizer, total, case.layout, case.info["gradient_norms_of_generator_total"])

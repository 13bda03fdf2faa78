"""Every term of the objective: its weight, when it is computed, and which gradients it gives; R1 and LeCAM."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training.tiny import ADVERSARIAL, DISCRIMINATOR

from toolkit.build import build_component, build_objective
from toolkit.config import ConfigError
from toolkit.contracts import Discriminator, TokenizerOutput
from toolkit.quantizers import LFQ
from toolkit.registry import DISCRIMINATORS, LOSSES
from toolkit.training.objective import AdversarialTerms, LeCAM, r1_penalty


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


class Relative(Linear):
    """logit = <slope, pixels minus their batch's mean>."""

    batch_statistics = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, pixels):
        self.seen.append(pixels)
        return super().forward(pixels - pixels.mean(0, keepdim=True)) + pixels.mean()


def a_clip(*, seed: int = 0, size=(2, 4, 4)) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def an_output(**losses) -> TokenizerOutput:
    reconstruction = a_clip(seed=1).requires_grad_()
    return TokenizerOutput(reconstruction, latents=reconstruction, codes=reconstruction, indices=None,
                           losses={name: torch.tensor(value) for name, value in losses.items()})


def l1_term(weight) -> dict:
    return dict(losses=dict(pixels=dict(loss=dict(type="L1"), weight=weight)))


def adversarial(**changes) -> dict:
    return dict(adversarial=dict(loss=dict(type="NonSaturating"), weight=0.1, discriminator_weight=2.0) | changes)


def test_total_is_the_weighted_sum_of_all_terms():
    objective = build_objective(l1_term(3.0) | adversarial() | dict(quantizer=dict(commitment=0.5, entropy=-2.0)))
    output, target, net = an_output(commitment=0.7, entropy=1.5), a_clip(), Linear()
    total, scalars = objective.generator_loss(output, target, step=0, discriminator=net)
    pixels = (output.reconstruction - target).abs().mean().item()
    gan_loss = F.softplus(-net(output.reconstruction)).mean().item()
    assert total.item() == pytest.approx(3 * pixels + 0.5 * 0.7 - 2 * 1.5 + 0.1 * gan_loss, rel=1e-5)
    assert {name: value.item() for name, value in scalars.items()} == pytest.approx(
        dict(pixels=pixels, commitment=0.7, entropy=1.5, adversarial=gan_loss, total=total.item()), rel=1e-5)


def test_a_term_without_weight_is_not_computed():
    objective, calls = build_objective(l1_term([(3, 0.0), (3, 1.0)])), []
    objective.losses["pixels"].register_forward_hook(lambda *_: calls.append(1))
    for step in range(5):
        _, scalars = objective.generator_loss(an_output(), a_clip(), step=step)
        assert ("pixels" in scalars) == (step >= 3)
    assert len(calls) == 2


@pytest.mark.parametrize("config", [{}, dict(losses=None, adversarial=None, quantizer=None),
                                    dict(losses=dict(pixels=None))])
def test_absent_terms_leave_a_total_of_zero(config):
    total, scalars = build_objective(config).generator_loss(an_output(), a_clip(), step=0)
    assert total.item() == 0 and list(scalars) == ["total"]


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
    gan_loss = -0.1 / 2 * torch.sigmoid(-net(pixels))[:, :, None, None, None] * net.slope.detach()
    assert torch.allclose(output.reconstruction.grad, gan_loss + (pixels - a_clip()).sign() / pixels.numel(), atol=1e-7)


def test_requires_grad_is_restored_when_the_discriminator_refuses_its_input():
    net = DISCRIMINATORS.build(DISCRIMINATOR)
    with pytest.raises(ValueError, match="size"):
        build_objective(adversarial()).generator_loss(an_output(), a_clip(), step=0, discriminator=net)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_discriminators_step_calls_it_once_with_its_weight_and_gives_the_tokenizer_no_gradients():
    objective, net, output, target = build_objective(adversarial()), Linear(), an_output(), a_clip()
    total, scalars = objective.discriminator_loss(output, target, step=0, discriminator=net)
    total.backward()
    assert net.calls == 1 and output.reconstruction.grad is None and net.slope.grad is not None
    real, fake = net(target), net(output.reconstruction)
    gan_loss = (F.softplus(-real).mean() + F.softplus(fake).mean()).item()
    assert total.item() == pytest.approx(2 * gan_loss, rel=1e-5)
    assert scalars["logits_real"].item() == pytest.approx(real.mean().item(), rel=1e-5)
    assert scalars["logits_fake"].item() == pytest.approx(fake.mean().item(), rel=1e-5)


def test_a_discriminator_with_batch_statistics_judges_real_and_fake_pixels_apart():
    objective, net, output, target = build_objective(adversarial()), Relative(), an_output(), a_clip()
    _, scalars = objective.discriminator_loss(output, target, step=0, discriminator=net)
    assert len(net.seen) == 2 and torch.equal(net.seen[0], target)
    assert torch.equal(net.seen[1], output.reconstruction) and not net.seen[1].requires_grad
    # a batch minus its mean has logits of mean zero, so the mean of the pixels remains
    assert scalars["logits_real"].item() == pytest.approx(target.mean().item(), abs=1e-6)
    assert scalars["logits_fake"].item() == pytest.approx(output.reconstruction.mean().item(), abs=1e-6)


def test_r1_of_a_compiled_discriminator_is_that_of_the_plain_one():
    objective = build_objective(adversarial(r1=dict(weight=0.5)))
    net = nn.Sequential(nn.Conv3d(3, 2, 1), nn.Tanh(), nn.Conv3d(2, 1, 1))
    net.batch_statistics = False
    losses = []
    for compiled in (False, True):
        if compiled:
            net.compile(backend="aot_eager")
        total, scalars = objective.discriminator_loss(an_output(), a_clip(), step=1, discriminator=net)
        losses.append((scalars["r1"], *torch.autograd.grad(total, net.parameters())))
    for ours, plain in zip(losses[1], losses[0], strict=True):
        torch.testing.assert_close(ours, plain)


def test_lazy_r1_is_computed_at_multiples_and_scaled_by_its_interval():
    net, output, target = Linear(), an_output(), a_clip()
    plain = build_objective(adversarial())
    lazy = build_objective(adversarial(r1=dict(weight=0.5, every=3)))
    slope = net.slope.square().sum().item()
    for step in range(7):
        totals = [objective.discriminator_loss(output, target, step=step, discriminator=net)[0].item()
                  for objective in (plain, lazy)]
        expected = 0.5 * 3 * slope if step % 3 == 0 else 0.0
        assert totals[1] - totals[0] == pytest.approx(expected, abs=1e-4)


def decoded() -> tuple[nn.Parameter, TokenizerOutput]:
    """A gain on fixed codes as the whole decoder, and its output with a quantizer's loss that depends on it too."""
    gain, codes = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]).reshape(3, 1, 1, 1)), a_clip(seed=2)
    losses = dict(commitment=7 * gain.sum())
    return gain, TokenizerOutput(gain * codes, latents=codes, codes=codes, indices=None, losses=losses)


def adaptive_config(**changes) -> dict:
    gan_loss = dict(loss=dict(type="Hinge"), weight=0.8, adaptive=dict(type="AdaptiveWeight")) | changes
    return dict(losses=dict(square=dict(loss=dict(type="L2"), weight=3.0),
                            pixels=dict(loss=dict(type="L1"), weight=0.5)),
                quantizer=dict(commitment=0.5), adversarial=gan_loss)


def test_the_adaptive_weight_balances_the_adversarial_gradient_against_the_reconstruction_losses():
    objective, net, target = build_objective(adaptive_config()), Linear(), a_clip()
    gain, output = decoded()
    total, scalars = objective.generator_loss(output, target, step=0, discriminator=net, last_layer=gain)
    codes, difference = output.codes, (output.reconstruction - target).detach()
    # d/d gain of 3 mean(difference^2) + 0.5 mean|difference|, and of -mean <slope, gain * codes>
    pull = ((3 * 2 * difference + 0.5 * difference.sign()) * codes).sum((0, 2, 3, 4)) / codes.numel()
    push = -(net.slope.detach() * codes).sum((0, 2, 3, 4)) / len(codes)
    factor = (pull.norm() / (push.norm() + 1e-4)).item()
    gan_loss = -net(output.reconstruction).mean().item()
    assert scalars["adaptive_weight"].item() == pytest.approx(factor, rel=1e-5)
    assert scalars["adversarial"].item() == pytest.approx(gan_loss, rel=1e-5)
    others = 3 * difference.square().mean() + 0.5 * difference.abs().mean() + 0.5 * 7 * gain.sum()
    assert total.item() == pytest.approx(others.item() + 0.8 * factor * gan_loss, rel=1e-5)
    total.backward()
    # the factor is a number: no gradient goes through it
    expected = pull + 0.8 * factor * push + 0.5 * 7
    torch.testing.assert_close(gain.grad.flatten(), expected, rtol=1e-4, atol=1e-6)


def test_without_an_adversarial_weight_the_discriminator_is_not_called_and_no_adaptive_one_computed():
    objective, net = build_objective(adaptive_config(weight=[(2, 0.0), (2, 0.1)])), Linear()
    for step in range(3):
        gain, output = decoded()
        _, scalars = objective.generator_loss(output, a_clip(), step=step, discriminator=net, last_layer=gain)
        assert ("adversarial" in scalars) == ("adaptive_weight" in scalars) == (step >= 2)
    assert net.calls == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("layer", "got"), [(None, "no layer"),
                                            (nn.Parameter(torch.ones(3), requires_grad=False), "a frozen layer")])
def test_an_adaptive_weight_needs_a_trained_last_layer_also_before_the_gan_starts(layer, got, late):
    objective = build_objective(adaptive_config())
    with pytest.raises(ConfigError, match=f"adaptive needs the gradient at the decoder's last layer, got {got}; train"):
        objective.generator_loss(decoded()[1], a_clip(), step=0, discriminator=None if late else Linear(),
                                 last_layer=layer)


def test_without_an_adaptive_weight_the_last_layer_does_not_matter():
    objective = build_objective(adaptive_config(adaptive=None))
    totals = [objective.generator_loss(decoded()[1], a_clip(), step=0, discriminator=Linear(), last_layer=layer)[0]
              for layer in (None, nn.Parameter(torch.ones(3), requires_grad=False))]
    assert totals[0] == totals[1]


def test_each_modality_has_its_own_lecam_averages():
    objective = build_objective(dict(adversarial=ADVERSARIAL), modalities=("image", "video"))
    objective.discriminator_loss(an_output(), a_clip(), step=0, discriminator=Linear(), modality="video")
    state = objective.state_dict()
    assert state["adversaries.video.lecam.average_real"] != 0 == state["adversaries.image.lecam.average_real"]


@pytest.mark.parametrize("weights", [dict(commitment=9.0), dict(LFQ=dict(commitment=9.0))])
def test_the_quantizers_own_weights_are_the_default(weights):
    objective = build_objective(dict(quantizer=weights), quantizer=LFQ(bits=4))
    assert objective.quantizer_weights == {**LFQ.loss_weights, "commitment": 9.0}


def test_a_quantizer_loss_without_a_weight_is_an_error():
    with pytest.raises(KeyError, match="surprise"):
        build_objective({}).generator_loss(an_output(surprise=1.0), a_clip(), step=0)


def test_weights_for_another_type_of_quantizer_are_ignored_and_logged(caplog):
    with caplog.at_level("INFO", logger="toolkit.training.objective"):
        objective = build_objective(dict(quantizer=dict(IBQ=dict(commitment=9.0))), quantizer=LFQ(bits=4))
    assert objective.quantizer_weights == LFQ.loss_weights
    assert "weights for IBQ are ignored; the quantizer is LFQ" in caplog.text


@pytest.mark.parametrize(("weights", "words"), [
    (dict(commitment=1.0, LFQ=dict(commitment=2.0)), r"states commitment twice, as commitment and as LFQ\.commitment"),
    (dict(orthogonality=1.0), "LFQ has the losses commitment, .* has orthogonality; remove"),
    (dict(LFQ=dict(orthogonality=1.0)), "LFQ has the losses commitment, .* has orthogonality; remove")])
def test_a_quantizers_weight_that_is_stated_twice_or_for_no_loss_of_it_is_refused(weights, words):
    with pytest.raises(ConfigError, match=words):
        build_objective(dict(quantizer=weights), quantizer=LFQ(bits=4))


@pytest.mark.parametrize(("config", "words"), [
    (dict(loss={}), "objective has no key 'loss'.*losses"),
    (dict(losses=dict(pixels=dict(loss=dict(type="L1")))), "objective.losses.pixels needs"),
    (dict(losses=dict(pixels=dict(type="L1", weight=1.0))), "objective.losses.pixels has no key 'type'"),
    (dict(adversarial=dict(loss=dict(type="Hinge"), lecam=dict(wait=1.0))), "lecam has no key 'wait'"),
    (dict(adversarial=dict(loss=dict(type="Hinge"), r1=dict(weight=1.0, evry=2))), "r1 has no key 'evry'"),
    (dict(adversarial=dict(loss=dict(type="Hinge"), r1=dict(every=0))), "r1.every must be a whole number .*, got 0"),
    (dict(adversarial=dict(weight=1.0)), "objective.adversarial needs loss, got weight"),
    (adaptive_config(adaptive=dict(type="L1")), "adversarial.adaptive takes a GeneratorWeight, got L1"),
    (adaptive_config(loss=dict(type="AdaptiveWeight")), "adversarial.loss takes a AdversarialLoss, got AdaptiveWeight"),
    (adaptive_config() | dict(losses=None), "adaptive needs a loss on the reconstruction to compare with, got none"),
])
def test_config_errors_name_the_key(config, words):
    with pytest.raises(ConfigError, match=words):
        build_objective(config)


@pytest.mark.parametrize(("config", "name"), [
    (dict(losses=dict(pixels=dict(loss=dict(type="L1"), weight="heavy"))), "the weight of pixels"),
    (dict(quantizer=dict(commitment=[(5, 1.0), (0, 2.0)])), "the weight of commitment"),
    (dict(adversarial=dict(loss=dict(type="Hinge"), weight=None)), "objective.adversarial: weight"),
])
def test_a_malformed_weight_is_refused_before_training(config, name):
    with pytest.raises(ConfigError, match=f"{name} is a number or a list of points"):
        build_objective(config)


def test_an_adversarial_loss_with_parameters_is_refused():
    loss = build_component(LOSSES, dict(type="Hinge"))
    loss.temperature = nn.Parameter(torch.ones(()))
    with pytest.raises(ConfigError, match="needs terms without trainable parameters, got Hinge"):
        AdversarialTerms(loss)


def test_r1_is_a_mean_over_the_batch_and_can_be_differentiated():
    # logit = a / 2 * |x|^2 has the gradient a x, so R1 = a^2 mean |x|^2 and dR1/da = 2 a mean |x|^2
    a = torch.tensor(3.0, requires_grad=True)
    pixels = torch.arange(2 * 3.0).reshape(2, 3, 1, 1, 1).requires_grad_()
    penalty = r1_penalty(a / 2 * pixels.square().flatten(1).sum(1, keepdim=True), pixels)
    penalty.backward()
    mean = (0 + 1 + 4 + 9 + 16 + 25) / 2
    assert (penalty.item(), a.grad.item()) == pytest.approx((9 * mean, 6 * mean))


BATCHES = [([1.0, 3.0], [-1.0, 0.5]), ([0.0, -2.0], [2.0, 1.0]), ([4.0, 4.5], [-3.0, -1.0])]


def by_hand(decay: float, *, per_logit: bool) -> list[float]:
    real_average = fake_average = 0.0
    penalties = []
    for real, fake in BATCHES:
        real_average = decay * real_average + (1 - decay) * sum(real) / len(real)
        fake_average = decay * fake_average + (1 - decay) * sum(fake) / len(fake)
        if not per_logit:
            real, fake = [sum(real) / len(real)], [sum(fake) / len(fake)]
        penalties.append(sum(max(r - fake_average, 0) ** 2 for r in real) / len(real)
                         + sum(max(real_average - f, 0) ** 2 for f in fake) / len(fake))
    return penalties


@pytest.mark.parametrize("per_logit", [False, True])
def test_lecam_over_several_steps(per_logit):
    lecam = LeCAM(decay=0.7, per_logit=per_logit)
    penalties = [lecam(torch.tensor(real)[:, None], torch.tensor(fake)[:, None]).item() for real, fake in BATCHES]
    assert penalties == pytest.approx(by_hand(0.7, per_logit=per_logit), rel=1e-5)


def test_lecam_gradients_reach_the_logits_and_not_the_averages():
    lecam = LeCAM(decay=0.5)
    real, fake = torch.tensor([2.0, 4.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    lecam(real, fake).backward()
    # averages 1.5 and -1: d/dr (mean r + 1)^2 = 2 * 4 / 2, d/df (1.5 - f)^2 = -2 * 3.5
    assert real.grad.tolist() == [4.0, 4.0] and fake.grad.tolist() == [-7.0]


def test_lecam_averages_do_not_change_in_eval():
    lecam = LeCAM(decay=0.5).eval()
    lecam(torch.ones(2, 1), torch.ones(2, 1))
    assert (lecam.average_real.item(), lecam.average_fake.item()) == (0.0, 0.0)

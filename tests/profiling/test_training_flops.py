"""FLOPs of a training and the steps in a budget, of toy networks of one convolution each, against counts by hand."""

import logging
import math

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.config import ConfigError
from toolkit.contracts import Dataset, Decoder, Discriminator, Encoder, Loss
from toolkit.data import Source
from toolkit.losses import NonSaturating
from toolkit.profiling.cost import Meter
from toolkit.profiling.training_flops import Stage, TrainingFlops, settings_within_budget, sign_changes
from toolkit.quantizers import FSQ, LFQ
from toolkit.tokenizer import Tokenizer
from toolkit.training.objective import AdversarialTerms, LeCAM, Objective
from toolkit.training.settings import Settings, value_at
from toolkit.training.trainer import RunComponents


class ToyEncoder(Encoder):
    in_channels, stride, first_frame_alone, causal = 3, (1, 1, 1), True, True

    def __init__(self, *, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv3d(3, out_channels, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, pixels, cache=None):
        return self.conv(pixels)


class ToyDecoder(Decoder):
    out_channels, stride, first_frame_alone, causal = 3, (1, 1, 1), True, True

    def __init__(self, *, in_channels: int):
        super().__init__()
        self.in_channels = in_channels
        self.conv = nn.Conv3d(in_channels, 3, (1, 3, 3), padding=(0, 1, 1))

    @property
    def last_layer(self):
        return self.conv.weight

    def forward(self, codes, cache=None):
        return self.conv(codes)


class ToyDiscriminator(Discriminator):
    in_channels, size = 3, None

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 5, 1)

    def forward(self, pixels):
        return self.conv(pixels).mean((1, 2, 3, 4))


class PlainLoss(Loss):
    """A loss without products."""

    def forward(self, output, target):
        return F.mse_loss(output.reconstruction, target)


class ToyFeatures(Loss):
    """A distance of frozen features."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.ones(7, 3, 1, 1, 1))

    def forward(self, output, target):
        return F.mse_loss(F.conv3d(output.reconstruction, self.kernel), F.conv3d(target, self.kernel))


class ToyData(Dataset):

    def __init__(self, *, sample_size: tuple[int, int, int] | None, modality: str = "video"):
        self.sample_size, self.modality = sample_size, modality

    def __len__(self):
        return 1


CLIP, IMAGE = (3, 8, 8), (1, 8, 8)
BATCH = 2
RAMP, JUMP = [(2, 0.0), (6, 1.0)], [(5, 0.0), (5, 1.0)]  # not 0 from step 3 on, from step 5 on


def conv(in_channels: int, out_channels: int, taps: int, size: tuple[int, int, int] = CLIP) -> int:
    """FLOPs of a convolution of a batch: 2 * k * C_in * C_out * positions."""
    return 2 * taps * in_channels * out_channels * BATCH * math.prod(size)


def tokenizer_flops(size: tuple[int, int, int] = CLIP) -> int:
    """Forward, and twice that backward, but for the gradient of the pixels."""
    return 3 * (conv(3, 4, 9, size) + conv(4, 3, 9, size)) - conv(3, 4, 9, size)


FEATURES = 3 * conv(3, 7, 1)  # of reconstruction and target, and the gradient of the reconstruction
GENERATOR = 2 * conv(3, 5, 1)  # logits, and the gradient of the reconstruction
DISCRIMINATOR = 2 * 2 * conv(3, 5, 1)  # logits of real and fake pixels, and the gradient of the kernel
# Logits of real pixels, the gradient of the pixels; of its norm, the gradients of the kernel and of the logits'
# gradient: torch computes the last, though nothing needs it.
R1 = 4 * conv(3, 5, 1)


def toy_run(*, weights: dict | None = None, adversarial: dict | None = None, sources: list[Source] | None = None,
            quantizer: nn.Module | None = None, **settings) -> RunComponents:
    quantizer = quantizer or FSQ(levels=[3] * 4)
    tokenizer = Tokenizer(ToyEncoder(out_channels=quantizer.dim), quantizer, ToyDecoder(in_channels=quantizer.dim))
    adversaries = {"video": AdversarialTerms(NonSaturating(), **adversarial)} if adversarial else {}
    losses = {name: (ToyFeatures(), weight) for name, weight in (weights or {}).items()}
    objective = Objective(losses={"plain": (PlainLoss(), 1.0), **losses}, adversaries=adversaries,
                          quantizer_weights=quantizer.loss_weights)
    return RunComponents(settings=Settings(**{"max_steps": 10} | settings), tokenizer=tokenizer, objective=objective,
                         discriminators={"video": ToyDiscriminator()} if adversarial else {},
                         train=sources or [Source(ToyData(sample_size=CLIP), batch_size=BATCH)], val=[],
                         make_metrics=lambda codec: [])


def stages_of(run: RunComponents, num_processes: int = 1) -> list[Stage]:
    return TrainingFlops(run, num_processes=num_processes).stages


def test_a_step_has_the_products_of_its_forward_and_backward_pass():
    assert stages_of(toy_run()) == [Stage(0, tokenizer_flops())]


def test_frozen_modules_have_no_gradients_of_weights():
    run = toy_run()
    run.tokenizer.encoder.requires_grad_(False)
    assert stages_of(run) == [Stage(0, conv(3, 4, 9) + 3 * conv(4, 3, 9) - conv(4, 3, 9))]


def test_all_micro_batches_and_processes_count():
    assert stages_of(toy_run(gradient_accumulation_steps=3), num_processes=4) == [Stage(0, 12 * tokenizer_flops())]


def test_a_loss_counts_in_the_steps_in_which_it_has_a_weight():
    run = toy_run(weights={"always": 1.0, "ramp": RAMP, "jump": JUMP, "never": 0.0, "until 4": [(2, 1.0), (4, 0.0)]})
    plain = tokenizer_flops()
    assert stages_of(run) == [Stage(0, plain + 2 * FEATURES), Stage(3, plain + 3 * FEATURES),
                              Stage(4, plain + 2 * FEATURES), Stage(5, plain + 3 * FEATURES)]
    assert TrainingFlops(run, num_processes=1).total(8) == 8 * plain + (8 + 5 + 3 + 4) * FEATURES


def test_a_discriminator_may_begin_before_the_generators_loss():
    run = toy_run(adversarial=dict(weight=JUMP, discriminator_weight=RAMP))
    plain = tokenizer_flops()
    assert stages_of(run) == [Stage(0, plain), Stage(3, plain + DISCRIMINATOR),
                              Stage(5, plain + DISCRIMINATOR + GENERATOR)]


@pytest.mark.parametrize("every", [1, 4])
def test_r1_counts_in_every_step_by_its_share(every):
    run = toy_run(adversarial=dict(r1_weight=JUMP, r1_every=every))
    plain = tokenizer_flops() + DISCRIMINATOR + GENERATOR
    assert stages_of(run) == [Stage(0, plain), Stage(5, plain + R1 // every)]


def test_sources_count_by_their_weights():
    sources = [Source(ToyData(sample_size=CLIP), batch_size=BATCH, weight=3.0),
               Source(ToyData(sample_size=IMAGE, modality="image"), batch_size=BATCH, weight=1.0)]
    expected = 0.75 * tokenizer_flops(CLIP) + 0.25 * tokenizer_flops(IMAGE)
    assert stages_of(toy_run(sources=sources)) == [Stage(0, round(expected))]


@pytest.mark.parametrize("changes", [dict(quantization=0.0), dict(quantization=0.5), dict(mixed_precision="bf16"),
                                     dict(mixed_precision="fp16"), dict(ema_decay=None), dict(compile=True)])
def test_settings_that_change_no_product_change_no_count(changes):
    assert stages_of(toy_run(**changes)) == [Stage(0, tokenizer_flops())]


def test_a_quantization_schedule_is_one_count_in_all_its_stages():
    assert {stage.flops for stage in stages_of(toy_run(quantization=[(3, 0.0), (9, 1.0)]))} == {tokenizer_flops()}


def test_the_networks_stay_as_they_are():
    run = toy_run(adversarial=dict(r1_weight=1.0, r1_every=4))
    modules = [run.tokenizer, run.objective, *run.discriminators.values()]
    before = [{name: (id(tensor), tensor.clone()) for name, tensor in module.state_dict(keep_vars=True).items()}
              for module in modules]
    random = torch.get_rng_state()
    stages_of(run)
    assert torch.equal(random, torch.get_rng_state())
    for module, tensors in zip(modules, before, strict=True):
        for name, tensor in module.state_dict(keep_vars=True).items():
            assert id(tensor) == tensors[name][0] and torch.equal(tensor, tensors[name][1]) and tensor.grad is None
    terms = run.objective.adversaries["video"]
    assert (terms.r1_weight, terms.r1_every, run.tokenizer.quantizer.frozen) == (1.0, 4, False)


def test_a_process_of_several_counts_without_the_others(monkeypatch):
    def run() -> RunComponents:
        return toy_run(quantizer=LFQ(bits=4),
                       adversarial=dict(lecam=LeCAM(), lecam_weight=1.0))

    alone = stages_of(run())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert stages_of(run()) == alone


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_counts_its_products_whatever_the_kernel(backend):
    query, key, value = (torch.zeros(2, 5, n, 32, requires_grad=True) for n in (64, 48, 48))
    with sdpa_kernel(backend), Meter() as meter:
        with meter.phase("forward"):
            output = F.scaled_dot_product_attention(query, key, value)
        with meter.phase("backward"):
            output.sum().backward()
    products = 2 * (2 * 2 * 5 * 64 * 48 * 32)  # q k^T, and its softmax times v
    assert [phase.flops for phase in meter.phases] == [products, 2 * products]


def test_steps_are_the_budget_over_the_cost_rounded_down():
    flops = TrainingFlops(toy_run(), num_processes=1)
    cost = tokenizer_flops()
    for budget, steps in ((cost - 1, 0), (cost, 1), (1.5 * cost, 1), (7 * cost - 1, 6), (7 * cost, 7),
                          (10**25 * cost, 10**25)):
        assert flops.steps_within(budget) == steps


def test_a_budget_is_spent_stage_by_stage():
    run = toy_run(weights={"always": 1.0, "ramp": RAMP, "until 4": [(4, 1.0), (4, 0.0)]})
    flops = TrainingFlops(run, num_processes=1)
    costs = [stage.flops for stage in flops.stages]
    assert [stage.start for stage in flops.stages] == [0, 3, 4]
    of_step = [costs[0]] * 3 + [costs[1]] + [costs[2]] * 6
    for steps in range(10):
        total = sum(of_step[:steps])
        assert flops.total(steps) == total
        assert flops.steps_within(total) == flops.steps_within(total + of_step[steps] - 1) == steps


POINTS = st.lists(st.tuples(st.integers(0, 30) | st.floats(0, 30), st.sampled_from([-2.0, -0.3, 0.0, 0.1, 1.0, 7.0])),
                  min_size=1, max_size=6).map(lambda points: sorted(points, key=lambda point: point[0]))


@given(POINTS)
def test_every_change_of_a_schedules_sign_is_among_the_steps(points):
    signs = [math.copysign(1, value) if (value := value_at(points, step)) else 0 for step in range(40)]
    changes = {step for step in range(1, 40) if signs[step] != signs[step - 1]}
    assert changes <= sign_changes(points)
    assert sign_changes(0.5) == set()


def test_a_budget_becomes_max_steps(caplog):
    cost = 2 * tokenizer_flops()
    run = toy_run(max_steps=None, max_flops=5.5 * cost)
    with caplog.at_level(logging.INFO):
        settings = settings_within_budget(run, num_processes=2)
    assert (settings.max_steps, settings.max_flops) == (5, None)
    assert f"gives max_steps=5; FLOPs of a step: {cost:.4g}." in caplog.text
    assert settings_within_budget(toy_run(), num_processes=2) == toy_run().settings  # without a budget


def test_a_budget_of_less_than_a_step_is_refused():
    with pytest.raises(ConfigError, match=r"max_flops needs at least 4\.147e\+05, .* got 1000; set a"):  # 414,720
        settings_within_budget(toy_run(max_steps=None, max_flops=1000), num_processes=1)


def test_samples_without_a_size_cannot_be_counted():
    run = toy_run(sources=[Source(ToyData(sample_size=None), batch_size=1)], max_steps=None, max_flops=1e9)
    with pytest.raises(ConfigError, match=r"training\.max_flops .* need the dataset's sample_size, got a ToyData"):
        settings_within_budget(run, num_processes=1)

"""Adversarial losses against their formulas and O2-MAGVIT2's numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.losses import Hinge, NonSaturating

GOLDEN = Path(__file__).parents[1] / "golden"
REAL, FAKE = torch.tensor([[0.3], [-2.0]]), torch.tensor([[-0.5], [1.7]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_non_saturating_is_the_sum_of_its_mean_halves():
    loss = NonSaturating()
    real, fake = (softplus(-0.3) + softplus(2.0)) / 2, (softplus(-0.5) + softplus(1.7)) / 2
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(real + fake, rel=1e-6)
    assert loss.generator(FAKE).item() == pytest.approx((softplus(0.5) + softplus(-1.7)) / 2, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3, 1), (2, 1, 1, 3, 1)])
def test_per_sample_the_logits_of_a_sample_are_averaged_first(shape):
    loss = NonSaturating(per_sample=True)
    real = torch.tensor([0.3, -0.6, 1.2, -2.0, 0.0, 1.4]).reshape(shape)  # means 0.3 and -0.2
    fake = torch.tensor([-1.5, 0.0, 0.0, 2.7, 1.7, 0.7]).reshape(shape)  # means -0.5 and 1.7
    halves = (softplus(-0.3) + softplus(0.2)) / 2, (softplus(-0.5) + softplus(1.7)) / 2
    assert loss.discriminator(real, fake).item() == pytest.approx(sum(halves), rel=1e-6)
    assert loss.generator(fake).item() == pytest.approx((softplus(0.5) + softplus(-1.7)) / 2, rel=1e-6)


def test_per_sample_changes_nothing_for_one_logit_a_sample():
    for logits in (FAKE, FAKE[:, 0]):
        assert NonSaturating(per_sample=True).generator(logits) == NonSaturating().generator(logits)


def test_hinge_is_the_sum_of_its_mean_halves():
    loss = Hinge()
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx((0.7 + 3.0) / 2 + (0.5 + 2.7) / 2, rel=1e-6)
    assert loss.generator(FAKE).item() == pytest.approx((0.5 - 1.7) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["o2_video_tiny", "o2_image_tiny"])
def test_losses_match_o2_magvit2(name):
    published = json.loads((GOLDEN / f"{name}.json").read_text())["losses"]
    real = torch.from_numpy(np.load(GOLDEN / f"{name}.npz")["discriminator_logits_real"])
    # The fake logits are not published but nearly equal, so one follows from the generator's loss.
    fake = torch.full_like(real, -math.log(math.expm1(published["generator_nonsaturating"])))
    got = {"generator_nonsaturating": NonSaturating().generator(fake).item(),
           "discriminator_nonsaturating": NonSaturating().discriminator(real, fake).item(),
           "discriminator_hinge": Hinge().discriminator(real, fake).item()}
    assert got == pytest.approx({key: published[key] for key in got}, rel=1e-5)


@pytest.mark.parametrize("loss", [NonSaturating(), NonSaturating(per_sample=True), Hinge()])
def test_half_precision_logits_give_finite_float32(loss):
    logits = torch.full((2, 1), 3000.0, dtype=torch.float16)
    value = loss.discriminator(-logits, logits)
    assert value.dtype == torch.float32 and value.isfinite()

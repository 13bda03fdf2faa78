"""R1 and LeCAM by their formulas."""

import pytest
import torch

from toolkit.training.regularizers import LeCAM, r1_penalty


def test_r1_of_a_linear_function_is_its_squared_slope():
    slope = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels = torch.randn(5, 3, 2, 4, 4, requires_grad=True)
    penalty = r1_penalty((pixels * slope).sum((1, 2, 3, 4)), pixels)
    assert penalty.item() == pytest.approx(slope.square().sum().item(), rel=1e-6)


def test_r1_is_a_mean_over_the_batch_and_can_be_differentiated():
    # logit = a / 2 * |x|^2 has the gradient a x, so R1 = a^2 mean |x|^2 and dR1/da = 2 a mean |x|^2
    a = torch.tensor(3.0, requires_grad=True)
    pixels = torch.arange(2 * 3.0).reshape(2, 3, 1, 1, 1).requires_grad_()
    penalty = r1_penalty(a / 2 * pixels.square().flatten(1).sum(1, keepdim=True), pixels)
    penalty.backward()
    mean = (0 + 1 + 4 + 9 + 16 + 25) / 2
    assert (penalty.item(), a.grad.item()) == pytest.approx((9 * mean, 6 * mean))


def test_r1_needs_pixels_that_require_grad():
    with pytest.raises(ValueError, match="requires_grad_"):
        r1_penalty(torch.zeros(1), torch.zeros(1, 3, 1, 2, 2))


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


def test_the_two_forms_of_lecam_differ():
    assert by_hand(0.7, per_logit=False)[0] != pytest.approx(by_hand(0.7, per_logit=True)[0])


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


def test_lecam_continues_from_its_state_dict():
    lecam, restored = LeCAM(decay=0.7), LeCAM(decay=0.7)
    for real, fake in BATCHES[:2]:
        lecam(torch.tensor(real), torch.tensor(fake))
    restored.load_state_dict(lecam.state_dict())
    real, fake = BATCHES[2]
    assert restored(torch.tensor(real), torch.tensor(fake)).item() == pytest.approx(by_hand(0.7, per_logit=False)[2])

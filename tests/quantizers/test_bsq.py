"""Binary spherical quantization: golden indices, codes on the sphere, losses by the paper's formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from toolkit.quantizers import BSQ


def grid(vectors: list[list[float]]) -> torch.Tensor:
    """N vectors of d numbers as latents (1, d, 1, 1, N)."""
    return torch.tensor(vectors).T.reshape(1, -1, 1, 1, len(vectors))


def test_golden_indices_first_channel_most_significant():
    latents = grid([[1.0, -1, -1, -1], [-9, 2, -1, 0.5], [0, 0, 0, 0], [1, 1, 1, 1], [-1e-9, 1e-9, -1, -1]])
    output = BSQ(bits=4).eval()(latents)
    assert output.indices.flatten().tolist() == [8, 5, 0, 15, 4]
    assert output.codes[0, :, 0, 0, 1].tolist() == [-0.5, 0.5, -0.5, 0.5]


@pytest.mark.parametrize("bits", [1, 3, 18, 62])
def test_codes_have_unit_length_and_are_the_nearest_corner(bits):
    latents = torch.randn(2, bits, 1, 3, 3)
    codes = BSQ(bits=bits).eval()(latents).codes
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(2, 1, 3, 3))
    torch.testing.assert_close(codes, latents.sign() / math.sqrt(bits))


@pytest.mark.parametrize(("groups", "temperature"), [(None, 1.0), (1, 1.0), (2, 3.0), (1, 20.0)])
def test_losses_are_those_of_the_softmax_over_corners(groups, temperature):
    bits = 6
    bsq = BSQ(bits=bits, inv_temperature=temperature, entropy_groups=groups)
    latents = torch.randn(2, bits, 1, 4, 4)
    losses = bsq(latents).losses
    u = F.normalize(latents.permute(0, 2, 3, 4, 1).reshape(-1, bits).double(), dim=1)
    size = bits // (groups or bits)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size))).double() / math.sqrt(bits)
    per_sample = codebook = 0
    for part in u.split(size, dim=1):
        log_p = (2 * temperature * part @ corners.T).log_softmax(1)
        average = log_p.exp().mean(0)
        per_sample -= (log_p.exp() * log_p).sum(1).mean()
        codebook -= (average * (average + 1e-8).log()).sum()
    code = u.sign() / math.sqrt(bits)
    expected = {"commitment": (u - code).square().sum(1).mean(), "per_sample_entropy": per_sample,
                "codebook_entropy": codebook}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-5)


def test_quantization_error_is_bounded_whatever_the_latents():
    worst = BSQ(bits=18)(grid([[1.0] + [1e-6] * 17])).losses["commitment"].item()  # next to an axis
    assert worst == pytest.approx(2 - 2 / math.sqrt(18), rel=1e-4)


def test_gradient_is_that_of_the_unit_vector():
    latents = torch.randn(1, 5, 1, 1, 3, requires_grad=True)
    upstream = torch.randn(1, 5, 1, 1, 3)
    actual, = torch.autograd.grad(BSQ(bits=5)(latents).codes, latents, upstream)
    expected, = torch.autograd.grad(F.normalize(latents, dim=1), latents, upstream)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("arguments", [dict(bits=0), dict(bits=63), dict(bits=18, entropy_groups=4),
                                       dict(bits=36, entropy_groups=1), dict(bits=4, entropy_groups=0)])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="BSQ "):
        BSQ(**arguments)


def test_even_use_of_2_to_the_18_codes_reaches_its_bound():
    bsq = BSQ(bits=18, inv_temperature=1e-6, entropy_groups=1)  # every code as likely as any
    assert bsq(torch.randn(1, 18, 1, 2, 2)).losses["codebook_entropy"].item() == pytest.approx(
        18 * math.log(2), rel=1e-2)

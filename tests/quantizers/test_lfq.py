"""Lookup-free and binary spherical quantization: their digits, codes and losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from quantizers.formulas import as_latents, as_rows, sign_codes, softmax_entropies

from toolkit.quantizers import BSQ, LFQ


def test_indices_equal_packed_bits():
    latents = torch.randn(2, 16, 3, 4, 5)
    out = LFQ(bits=16).eval()(latents)
    packed = np.packbits((latents > 0).numpy(), axis=1)  # big-endian: first channel on top
    expected = packed[:, 0].astype(np.int64) * 256 + packed[:, 1]
    assert np.array_equal(out.indices.squeeze(-1).numpy(), expected)


def test_largest_codebook_has_indices_up_to_its_last():
    lfq = LFQ(bits=62, entropy_groups=31).eval()
    assert lfq(torch.ones(1, 62, 1, 1, 1)).indices.item() == 2**62 - 1 == lfq.codebook_size - 1
    assert lfq.codes_from_indices(torch.full((1, 1, 1, 1, 1), 2**61)).flatten().tolist() == [1.0] + [-1.0] * 61


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_training_codes_equal_evaluated_codes_to_the_last_bit(scale):
    lfq = LFQ(bits=6, scale=scale)
    latents = 100 * torch.randn(2, 6, 2, 3, 3, requires_grad=True)
    assert torch.equal(lfq.train()(latents).codes, lfq.eval()(latents).codes)


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(1, 16), codebooks=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
@torch.no_grad()
def test_every_index_is_found_again(bits, codebooks, seed):
    lfq = LFQ(bits=bits, num_codebooks=codebooks).eval()
    indices = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, (2, 2, 1, 3, codebooks)))
    assert torch.equal(lfq(lfq.codes_from_indices(indices)).indices, indices)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("codebooks", "groups"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_entropies_sum_over_groups_and_average_over_codebooks(codebooks, groups, scale):
    bits, temperature = 6, 2.0
    lfq = LFQ(bits=bits, num_codebooks=codebooks, entropy_groups=groups, inv_temperature=temperature, scale=scale)
    latents = 0.2 * torch.randn(2, bits * codebooks, 2, 2, 3)
    losses = lfq(latents).losses
    codes = scale * sign_codes(bits // groups)
    parts = [softmax_entropies(part, codes, temperature) for part in as_rows(latents).split(bits // groups, dim=1)]
    expected = torch.tensor(parts).sum(0) / codebooks
    actual = [losses["per_sample_entropy"].item(), losses["codebook_entropy"].item()]
    assert actual == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_float32_even_within_autocast(dtype):
    lfq = LFQ(bits=6)
    latents = (0.01 * torch.randn(2, 6, 2, 3, 3)).to(dtype)
    expected = lfq(latents.float()).losses
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for losses in (lfq(latents).losses, lfq(latents.float()).losses):
            # Equal to the last digit: not one operation of the losses ran in half precision.
            assert losses == expected


@pytest.mark.parametrize("sign_of_zero", [-1, 1])
def test_zero_has_the_sign_of_the_option(sign_of_zero):
    output = LFQ(bits=4, sign_of_zero=sign_of_zero).eval()(as_latents([[0.0, -0.0, 1e-30, -1e-30]]))
    assert output.codes.flatten().tolist() == [sign_of_zero, sign_of_zero, 1, -1]
    assert output.indices.item() == (0b1110 if sign_of_zero == 1 else 0b0010)


@pytest.mark.parametrize("bits", [1, 3, 18, 62])
def test_spherical_codes_have_unit_length_and_are_the_nearest_corner(bits):
    latents = torch.randn(2, bits, 1, 3, 3)
    codes = BSQ(bits=bits).eval()(latents).codes
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(2, 1, 3, 3))
    torch.testing.assert_close(codes, latents.sign() / math.sqrt(bits))


@pytest.mark.parametrize(("groups", "temperature"), [(None, 1.0), (1, 1.0), (2, 3.0), (1, 20.0)])
def test_spherical_losses_are_those_of_the_softmax_over_corners(groups, temperature):
    bits = 6
    latents = torch.randn(2, bits, 1, 4, 4)
    losses = BSQ(bits=bits, inv_temperature=temperature, entropy_groups=groups)(latents).losses
    u = F.normalize(as_rows(latents).double(), dim=1)
    size = bits // (groups or bits)
    corners = sign_codes(size) / math.sqrt(bits)
    per_sample, codebook = torch.tensor(
        [softmax_entropies(part, corners, temperature, eps=1e-8) for part in u.split(size, dim=1)]).sum(0).tolist()
    commitment = (u - u.sign() / math.sqrt(bits)).square().sum(1).mean().item()
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {"commitment": commitment, "per_sample_entropy": per_sample, "codebook_entropy": codebook}, rel=1e-5)


def test_spherical_quantization_error_is_bounded_whatever_the_latents():
    worst = BSQ(bits=18)(as_latents([[1.0] + [1e-6] * 17])).losses["commitment"].item()  # next to an axis
    assert worst == pytest.approx(2 - 2 / math.sqrt(18), rel=1e-4)


def test_spherical_gradient_is_that_of_the_unit_vector():
    latents = torch.randn(1, 5, 1, 1, 3, requires_grad=True)
    upstream = torch.randn(1, 5, 1, 1, 3)
    actual, = torch.autograd.grad(BSQ(bits=5)(latents).codes, latents, upstream)
    expected, = torch.autograd.grad(F.normalize(latents, dim=1), latents, upstream)
    torch.testing.assert_close(actual, expected)

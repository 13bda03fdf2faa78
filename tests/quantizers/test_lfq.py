"""Lookup-free quantization: its digits, its codes, its losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.quantizers import LFQ

VARIANTS = pytest.mark.parametrize("arguments", [
    dict(bits=1), dict(bits=5), dict(bits=18), dict(bits=4, num_codebooks=3), dict(bits=6, scale=0.3),
    dict(bits=62, entropy_groups=31), dict(bits=3, num_codebooks=2, scale=1 / 3)])


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


def test_codes_are_the_signs_times_the_scale():
    latents = torch.randn(2, 6, 2, 3, 3)
    assert torch.equal(LFQ(bits=6, scale=0.25).eval()(latents).codes, 0.25 * latents.sign())


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_training_codes_equal_evaluated_codes_to_the_last_bit(scale):
    lfq = LFQ(bits=6, scale=scale)
    latents = 100 * torch.randn(2, 6, 2, 3, 3, requires_grad=True)
    assert torch.equal(lfq.train()(latents).codes, lfq.eval()(latents).codes)


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_codes_of_stored_indices_are_the_evaluated_codes(arguments, dtype):
    lfq = LFQ(**arguments).eval()
    latents = torch.randn(2, lfq.dim, 2, 3, 4).to(dtype)
    out = lfq(latents)
    assert out.codes.dtype == dtype and out.codes.shape == latents.shape
    assert out.indices.dtype == torch.int64 and out.indices.shape == (2, 2, 3, 4, lfq.num_codebooks)
    codes = lfq.codes_from_indices(out.indices)
    assert codes.dtype == torch.float32 and torch.equal(codes.to(dtype), out.codes)


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(1, 16), codebooks=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
@torch.no_grad()
def test_every_index_is_found_again(bits, codebooks, seed):
    lfq = LFQ(bits=bits, num_codebooks=codebooks).eval()
    indices = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, (2, 2, 1, 3, codebooks)))
    assert torch.equal(lfq(lfq.codes_from_indices(indices)).indices, indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_straight_through_gradient_is_the_identity(dtype):
    latents = torch.randn(2, 6, 2, 3, 3, dtype=dtype, requires_grad=True)
    upstream = torch.randn(2, 6, 2, 3, 3, dtype=dtype)
    LFQ(bits=6, scale=0.5).train()(latents).codes.backward(upstream)
    assert torch.equal(latents.grad, upstream)


def test_commitment_is_the_mean_squared_distance_and_pulls_towards_the_code():
    lfq = LFQ(bits=3, scale=0.5)
    latents = torch.randn(2, 3, 2, 2, 2, requires_grad=True)
    loss = lfq.train()(latents).losses["commitment"]
    distance = latents - 0.5 * latents.detach().sign()
    torch.testing.assert_close(loss, distance.square().mean())
    gradient, = torch.autograd.grad(loss, latents)
    torch.testing.assert_close(gradient, 2 * distance.detach() / latents.numel())


def full_entropies(z: np.ndarray, inv_temperature: float) -> tuple[float, float]:
    """Both entropies in float64 by the softmax over all codes; z (N, bits)."""
    bits = z.shape[1]
    codes = np.array(list(np.ndindex(*(2,) * bits))) * 2.0 - 1
    logits = 2 * inv_temperature * z @ codes.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    average = p.mean(0)
    per_sample = -(p * np.log(np.maximum(p, 1e-300))).sum(1).mean()
    return per_sample, -(average * np.log(average + 1e-5)).sum()


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("codebooks", "groups"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_entropies_sum_over_groups_and_average_over_codebooks(codebooks, groups, scale):
    bits, temperature = 6, 2.0
    lfq = LFQ(bits=bits, num_codebooks=codebooks, entropy_groups=groups, inv_temperature=temperature, scale=scale)
    latents = 0.2 * torch.randn(2, bits * codebooks, 2, 2, 3)
    losses = lfq.train()(latents).losses
    # A code's entries are -scale or scale, so its logits are those of unit codes for scale * latents.
    flat = scale * latents.permute(0, 2, 3, 4, 1).reshape(-1, bits * codebooks).double().numpy()
    parts = [full_entropies(part, temperature) for part in np.split(flat, codebooks * groups, axis=1)]
    expected = np.array(parts).sum(0) / codebooks
    actual = [losses["per_sample_entropy"].item(), losses["codebook_entropy"].item()]
    assert actual == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_indices_are_decided_in_float32_even_within_autocast(dtype):
    lfq = LFQ(bits=6).train()
    latents = (0.01 * torch.randn(2, 6, 2, 3, 3)).to(dtype)
    expected = lfq(latents.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = lfq(latents)
        in_float = lfq(latents.float())
    assert out.codes.dtype == dtype
    for actual in (out, in_float):
        assert torch.equal(actual.indices, expected.indices)
        assert all(actual.losses[name].dtype == torch.float32 for name in actual.losses)
        # Equal to the last digit: not one operation of the losses ran in half precision.
        assert actual.losses == expected.losses


@pytest.mark.parametrize("arguments", [dict(bits=36, entropy_groups=2), dict(bits=24)])
def test_groups_of_up_to_24_bits_are_accepted(arguments):
    assert LFQ(**arguments).dim == arguments["bits"]


def test_there_is_nothing_to_save():
    assert not LFQ(bits=6).state_dict()


@pytest.mark.parametrize("sign_of_zero", [-1, 1])
def test_zero_has_the_sign_of_the_option(sign_of_zero):
    latents = torch.tensor([0.0, -0.0, 1e-30, -1e-30]).reshape(1, 4, 1, 1, 1)
    output = LFQ(bits=4, sign_of_zero=sign_of_zero).eval()(latents)
    assert output.codes.flatten().tolist() == [sign_of_zero, sign_of_zero, 1, -1]
    assert output.indices.item() == (0b1110 if sign_of_zero == 1 else 0b0010)


@pytest.mark.parametrize(("needed", "wrong"), [
    ("1 to 62 bits", [dict(bits=0), dict(bits=63), dict(bits=-1)]),
    ("num_codebooks >= 1", [dict(bits=4, num_codebooks=0)]),
    ("entropy groups of at most 24 bits", [
        dict(bits=25), dict(bits=36), dict(bits=62), dict(bits=50, entropy_groups=2), dict(bits=18, entropy_groups=4),
        dict(bits=4, entropy_groups=0), dict(bits=4, entropy_groups=-1)]),
    ("bit_order 'msb_first' or 'lsb_first' and sign_of_zero -1 or 1", [
        dict(bits=2, bit_order="big"), dict(bits=2, sign_of_zero=0)])])
def test_arguments_out_of_range_are_refused(needed, wrong):
    for arguments in wrong:
        with pytest.raises(ValueError, match=f"^LFQ needs {needed}"):
            LFQ(**arguments)

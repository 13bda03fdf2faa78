"""The multi-scale quantizer against its formula and its contract, and a tokenizer whose indices are no grid."""

import math

import pytest
import torch
import torch.nn.functional as F
from toolkit_multiscale_bsq import MultiScaleBSQ

from toolkit import build_tokenizer, load_config, load_tokenizer
from toolkit.testing import check_quantizer


@pytest.fixture
def tokenizer():
    """Stride 4x8x8, 6 bits on the demo's three scales."""
    network = load_config("configs/demo_video.py").tokenizer
    return build_tokenizer({**network, "quantizer": dict(type="MultiScaleBSQ", bits=6)}).eval()


@pytest.mark.parametrize("options", [dict(bits=6), dict(bits=4, scales=(1.0,)), dict(bits=8, entropy_groups=8)])
def test_multiscale_bsq_meets_its_contract(options):
    check_quantizer(MultiScaleBSQ(**options))


def test_positions_are_those_of_all_scales():
    quantizer = MultiScaleBSQ(bits=6)
    assert quantizer.sizes((5, 8, 16)) == [(1, 2, 4), (2, 4, 8), (5, 8, 16)]
    assert quantizer.positions((5, 8, 16)) == (8 + 64 + 640,)
    assert quantizer.sizes((1, 1, 1)) == [(1, 1, 1)] * 3


def test_one_scale_is_binary_spherical_quantization():
    quantizer = MultiScaleBSQ(bits=4, scales=(1.0,)).eval()
    output = quantizer(torch.tensor([0.1, -3.0, 0.0, 2.0]).reshape(1, 4, 1, 1, 1))
    assert output.indices.tolist() == [[[0b1001]]]  # first channel most significant, zero counts as negative
    assert output.codes.flatten().tolist() == [0.5, -0.5, -0.5, 0.5]  # 1 / sqrt(4)


def test_finer_scale_quantizes_the_residual_of_the_coarser_one():
    # One channel, two positions, scales of one and two positions: codes are 1 and -1.
    quantizer = MultiScaleBSQ(bits=1, scales=(0.5, 1.0)).eval()
    output = quantizer(torch.tensor([2.5, 0.5]).reshape(1, 1, 1, 1, 2))
    # Mean 1.5 -> +1, everywhere; left are 1.5 and -0.5 -> +1 and -1; sums 2 and 0.
    assert output.indices.flatten().tolist() == [1, 1, 0]
    assert output.codes.flatten().tolist() == [2.0, 0.0]


def test_codes_are_interpolated_linearly_between_positions():
    # 8 columns from 4: each lies a quarter of a cell beside a centre, the border repeats.
    codes = MultiScaleBSQ(bits=1, scales=(0.5, 1.0)).codes_from_indices(
        torch.tensor([0, 1, 1, 0] + [1] * 8).reshape(1, 12, 1), grid=(1, 1, 8)).flatten()
    coarse = torch.tensor([-1.0, -0.5, 0.5, 1.0, 1.0, 0.5, -0.5, -1.0])
    assert torch.allclose(codes, coarse + 1)


def test_losses_are_those_of_all_possible_codes():
    quantizer, grid = MultiScaleBSQ(bits=3, scales=(0.5, 1.0), inv_temperature=2.0), (1, 2, 4)
    latents = torch.randn(2, 3, *grid, dtype=torch.float64).float()
    output = quantizer(latents)
    every = quantizer.lookup(torch.arange(8).reshape(1, 8, 1))[0]
    first, rest = output.indices.split([2, 8], dim=1)
    coarse = every[first.flatten()].reshape(2, 1, 1, 2, 3).permute(0, 4, 1, 2, 3)
    coarse = F.interpolate(coarse, grid, mode="trilinear")
    residuals = torch.cat([latents.reshape(2, 3, 1, 2, 2, 2).mean((3, 5)).flatten(2), (latents - coarse).flatten(2)], 2)
    p = (2 * 2.0 * F.normalize(residuals, dim=1).mT @ every.T).softmax(-1)  # (B, L, K)
    assert output.losses["per_sample_entropy"].item() == pytest.approx(-(p * p.log()).sum(-1).mean().item(), rel=1e-5)
    average = p.mean((0, 1))
    assert output.losses["codebook_entropy"].item() == pytest.approx(-(average * average.log()).sum().item(), rel=1e-4)
    assert output.losses["commitment"].item() == pytest.approx((latents - output.codes).square().mean().item())
    fine = every[rest.flatten()].reshape(2, *grid, 3).permute(0, 4, 1, 2, 3)
    assert torch.allclose(output.codes, coarse + fine)


@pytest.mark.parametrize(("options", "words"), [
    (dict(bits=0), "needs 1 to 62 bits, got 0"),
    (dict(bits=63), "needs 1 to 62 bits, got 63"),
    (dict(bits=30), "at least 2"),
    (dict(bits=30, entropy_groups=4), "choose a divisor of 30"),
    (dict(bits=6, scales=()), r"grow from above 0 to 1.0, the full grid, got \(\)"),
    (dict(bits=6, scales=(0.25, 0.5)), r"got \(0.25, 0.5\)"),
    (dict(bits=6, scales=(0.5, 0.25, 1.0)), r"got \(0.5, 0.25, 1.0\)"),
    (dict(bits=6, scales=(0.0, 1.0)), r"got \(0.0, 1.0\)"),
])
def test_invalid_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MultiScaleBSQ(**options)


@pytest.mark.parametrize("size", [(1, 16, 16), (5, 32, 48), (6, 31, 17)])
def test_indices_without_a_grid_survive_the_round_trip(tokenizer, size):
    pixels = torch.rand(2, 3, *size) * 2 - 1
    indices, returned = tokenizer.tokenize(pixels, return_size=True)
    grid = tokenizer.grid(size)
    assert indices.shape == (2, *tokenizer.quantizer.positions(grid), 1) and indices.shape[1] > math.prod(grid)
    assert returned == size
    assert torch.equal(tokenizer.detokenize(indices, size), tokenizer(pixels).reconstruction)


def test_decoding_without_the_size_names_the_missing_grid(tokenizer):
    with pytest.raises(ValueError, match="MultiScaleBSQ needs the grid"):
        tokenizer.detokenize(tokenizer.tokenize(torch.zeros(1, 3, 5, 16, 16)))


def test_indices_of_another_size_are_refused(tokenizer):
    indices = tokenizer.tokenize(torch.zeros(1, 3, 5, 16, 16))
    with pytest.raises(ValueError, match="MultiScaleBSQ needs integer indices"):
        tokenizer.detokenize(indices, size=(5, 32, 32))


def test_a_saved_tokenizer_gives_the_same_tokens(tokenizer, tmp_path):
    pixels = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(load_tokenizer(tmp_path).tokenize(pixels), tokenizer.tokenize(pixels))


def test_a_stream_is_refused(tokenizer):
    with pytest.raises(ValueError, match="MultiScaleBSQ has no grid of indices"):
        next(tokenizer.tokenize_stream([torch.zeros(1, 3, 5, 16, 16)]))

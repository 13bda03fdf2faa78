"""Finite scalar quantization: the paper's formula, its codes and its gradient, with both bounds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from toolkit.quantizers import FSQ


@pytest.mark.parametrize("bound", ["tanh", "ifsq"])
@pytest.mark.parametrize("levels", [[3], [4, 7], [8, 8, 8, 8, 8, 8], [5, 6, 9]])
def test_indices_are_those_of_the_formula(bound, levels):
    fsq = FSQ(levels=levels, bound=bound).eval()
    latents = 2 * torch.randn(3, len(levels), 2, 3, 3)
    actual = fsq(latents).indices.flatten()
    inverse = math.atanh if bound == "tanh" else (lambda y: -math.log(2 / (y + 1) - 1) / 1.6)
    index, basis = torch.zeros(len(actual), dtype=torch.long), 1
    for z, size in zip(latents.permute(1, 0, 2, 3, 4).flatten(1).double(), levels, strict=True):
        half = (size - 1) * 1.001 / 2
        offset = 0.0 if size % 2 else 0.5
        z = z + inverse(offset / half)
        f = torch.tanh(z) if bound == "tanh" else 2 * torch.sigmoid(1.6 * z) - 1
        index += ((f * half - offset).round().long() + size // 2) * basis
        basis *= size
    # A latent on the edge between two levels may fall to either side in float32.
    assert (actual != index).float().mean() < 1e-3 and actual.unique().numel() > 1


def test_no_index_exceeds_the_last_of_many_levels():
    fsq = FSQ(levels=[1001, 4096]).eval()
    output = fsq(torch.tensor([[-99.0, 99.0]] * 2).reshape(1, 2, 1, 1, 2))
    assert output.indices.flatten().tolist() == [0, 1001 * 4096 - 1]
    assert torch.equal(fsq.codes_from_indices(output.indices), output.codes)


def test_every_code_is_reached_and_codes_are_a_grid():
    fsq = FSQ(levels=[3, 4]).eval()
    codes = fsq.codes_from_indices(torch.arange(12).reshape(1, 1, 1, 12, 1))[0, :, 0, 0].T.tolist()
    expected = [[a, b] for b, a in itertools.product((-1.0, -0.5, 0.0, 0.5), (-1.0, 0.0, 1.0))]
    assert codes == expected


def test_ifsq_uses_levels_of_gaussian_latents_more_evenly():
    latents = torch.randn(1, 1, 1, 100, 100)

    def unevenness(bound: str) -> float:
        counts = torch.bincount(FSQ(levels=[9], bound=bound).eval()(latents).indices.flatten(), minlength=9)[1:8]
        return (counts.max() / counts.min()).item()

    assert unevenness("ifsq") < 1.25 < unevenness("tanh")  # the inner levels, whose width is whole


def test_gradient_is_that_of_the_bound():
    fsq, z = FSQ(levels=[5, 8]), torch.randn(1, 2, 1, 1, 6, requires_grad=True)
    gradient, = torch.autograd.grad(fsq(z).codes.sum(), z)
    half, offset = torch.tensor([2.0, 3.5]) * 1.001, torch.tensor([0.0, 0.5])
    shape = (1, 2, 1, 1, 1)
    shift = torch.atanh(offset / half).reshape(shape)
    width = torch.tensor([2.0, 4.0]).reshape(shape)
    expected = (1 - torch.tanh(z + shift).square()) * half.reshape(shape) / width
    torch.testing.assert_close(gradient, expected)


def test_half_precision_module_loses_no_level_and_there_is_nothing_to_save():
    latents = torch.linspace(-3, 3, 1000).reshape(1, 1, 1, 1, 1000)
    fsq = FSQ(levels=[64]).eval()
    expected = fsq(latents).indices
    assert torch.equal(fsq.bfloat16()(latents).indices, expected) and not fsq.state_dict()

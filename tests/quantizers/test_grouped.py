"""Groups of channels: WeTok's group-wise quantization, and its parts."""

from __future__ import annotations

import itertools

import pytest
import torch

from toolkit.quantizers import LFQ, VQ, Grouped


def test_groups_of_signs_equal_codebooks_of_consecutive_channels():
    grouped = Grouped(quantizers=[LFQ(bits=4), LFQ(bits=4), LFQ(bits=4)])
    together, z = LFQ(bits=4, num_codebooks=3), torch.randn(2, 12, 1, 3, 3, requires_grad=True)
    ours, theirs = grouped(z), together(z)
    assert torch.equal(ours.indices, theirs.indices) and torch.equal(ours.codes, theirs.codes)
    torch.testing.assert_close(ours.losses, theirs.losses)
    assert grouped.loss_weights == together.loss_weights


def test_entropies_are_those_of_the_codes_of_each_group():
    # WeTok (arXiv:2508.05599, sec. 3.1): token and codebook entropy over the 2^bits codes of each group.
    bits, groups, temperature = 3, 4, 2.0
    grouped = Grouped(quantizers=[LFQ(bits=bits, inv_temperature=temperature) for _ in range(groups)])
    z = 0.3 * torch.randn(1, bits * groups, 1, 5, 5)
    losses = grouped(z).losses
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits))).double()
    token, book = [], []
    for part in z.permute(0, 2, 3, 4, 1).reshape(25, -1).double().split(bits, dim=1):
        p = (2 * temperature * part @ codes.T).softmax(1)
        token.append(-(p * p.log()).sum(1).mean())
        book.append(-(p.mean(0) * (p.mean(0) + 1e-5).log()).sum())
    assert losses["per_sample_entropy"].item() == pytest.approx(sum(token).item() / groups, rel=1e-5)
    assert losses["codebook_entropy"].item() == pytest.approx(sum(book).item() / groups, rel=1e-5)


def test_memory_of_many_bits_is_that_of_one_group():
    grouped = Grouped(quantizers=[LFQ(bits=8) for _ in range(16)])  # 128 bits, WeTok's larger sizes
    output = grouped(torch.randn(1, 128, 1, 4, 4))
    assert (grouped.dim, grouped.codebook_size, grouped.num_codebooks) == (128, 256, 16)
    assert output.indices.shape == (1, 1, 4, 4, 16) and output.indices.max() < 256


def test_groups_may_have_unequal_widths():
    grouped = Grouped(quantizers=[VQ(codebook_size=8, dim=2), VQ(codebook_size=8, dim=5)]).eval()
    z = torch.randn(1, 7, 1, 2, 2)
    output = grouped(z)
    for column, (child, part) in enumerate(zip(grouped.quantizers, z.split([2, 5], dim=1), strict=True)):
        assert torch.equal(child(part).indices[..., 0], output.indices[..., column])
    assert torch.equal(grouped.codes_from_indices(output.indices), output.codes)

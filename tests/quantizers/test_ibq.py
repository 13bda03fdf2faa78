"""Index backpropagation against the full (N, K) softmax written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from toolkit.quantizers import IBQ, ibq


def test_golden_indices_are_rows_of_the_largest_product():
    quantizer = IBQ(codebook_size=4, dim=2).eval()
    quantizer.codebook.data.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]))
    latents = torch.tensor([[1.0, 1.0], [1.0, -2.0], [-5.0, 2.0], [-1.0, -1.0], [0.0, 0.0]])
    output = quantizer(latents.T.reshape(1, 2, 1, 1, 5))
    assert output.indices.flatten().tolist() == [3, 2, 1, 0, 0]
    assert output.codes[0, :, 0, 0, 0].tolist() == [2.0, 2.0]


def written_out(z: torch.Tensor, codebook: torch.Tensor, temperature: float) -> tuple[torch.Tensor, dict]:
    """The paper's equations with all logits at once; z (N, d)."""
    logits = z @ codebook.T
    soft = logits.softmax(1)
    hard = F.one_hot(logits.argmax(1), len(codebook)).to(z.dtype)
    codes = (hard - soft.detach() + soft) @ codebook
    row = hard @ codebook
    log_p = (logits / temperature).log_softmax(1)
    average = log_p.exp().mean(0)
    return codes, {"quantization": (codes - z).square().mean(), "commitment": (z - row.detach()).square().mean(),
                   "codebook": (row - z.detach()).square().mean(),
                   "per_sample_entropy": -(log_p.exp() * log_p).sum(1).mean(),
                   "codebook_entropy": -(average * (average + 1e-5).log()).sum()}


@pytest.mark.parametrize("chunk", [1, 40, 2**24])
def test_codes_losses_and_gradients_equal_the_full_softmax(monkeypatch, chunk):
    monkeypatch.setattr(ibq, "CHUNK", chunk)
    quantizer = IBQ(codebook_size=16, dim=4, temperature=0.5)
    latents, upstream = torch.randn(2, 4, 1, 3, 2, requires_grad=True), torch.randn(12, 4)
    output = quantizer(latents)
    actual = [output.codes.permute(0, 2, 3, 4, 1).reshape(12, 4), output.losses]
    flat = latents.permute(0, 2, 3, 4, 1).reshape(12, 4)
    expected = written_out(flat, quantizer.codebook, 0.5)
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-6)
    for name in [None, *output.losses]:
        totals = [(codes * upstream).sum() if name is None else losses[name] for codes, losses in (actual, expected)]
        ours, theirs = (torch.autograd.grad(total, [latents, quantizer.codebook], retain_graph=True,
                                            allow_unused=True, materialize_grads=True) for total in totals)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_reconstruction_moves_codes_that_were_not_chosen():
    quantizer, latents = IBQ(codebook_size=8, dim=3), torch.randn(1, 3, 1, 1, 2)
    layer = torch.nn.Conv3d(3, 3, 1)
    output = quantizer(layer(latents))
    output.losses["quantization"].backward()
    moved = quantizer.codebook.grad.abs().sum(1) > 0
    assert moved.all() and output.indices.unique().numel() < 8 and layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("arguments", [dict(codebook_size=1, dim=2), dict(codebook_size=4, dim=0),
                                       dict(codebook_size=4, dim=2, temperature=0.0)])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="IBQ needs"):
        IBQ(**arguments)

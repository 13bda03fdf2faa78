"""Index backpropagation against the full (N, K) softmax written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from quantizers.formulas import as_rows, softmax_entropies

from toolkit.quantizers import IBQ, ibq


def written_out(z: torch.Tensor, codebook: torch.Tensor, temperature: float) -> tuple[torch.Tensor, dict]:
    """The paper's equations with all logits at once; z (N, d)."""
    logits = z @ codebook.T
    soft = logits.softmax(1)
    hard = F.one_hot(logits.argmax(1), len(codebook)).to(z.dtype)
    codes = (hard - soft.detach() + soft) @ codebook
    row = hard @ codebook
    per_sample, codebook_entropy = softmax_entropies(z, codebook, 1 / (2 * temperature))
    return codes, {"quantization": (codes - z).square().mean(), "commitment": (z - row.detach()).square().mean(),
                   "codebook": (row - z.detach()).square().mean(),
                   "per_sample_entropy": per_sample.float(), "codebook_entropy": codebook_entropy.float()}


@pytest.mark.parametrize("chunk", [1, 40, 2**24])
def test_codes_losses_and_gradients_equal_the_full_softmax(monkeypatch, chunk):
    monkeypatch.setattr(ibq, "CHUNK", chunk)
    quantizer = IBQ(codebook_size=16, dim=4, temperature=0.5)
    latents, upstream = torch.randn(2, 4, 1, 3, 2, requires_grad=True), torch.randn(12, 4)
    output = quantizer(latents)
    actual = as_rows(output.codes), output.losses
    expected = written_out(as_rows(latents), quantizer.codebook, 0.5)
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

"""Bottlenecks without codes."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from toolkit.quantizers import KL, Identity


@pytest.mark.parametrize("quantizer", [Identity(dim=3), KL(dim=3)])
def test_there_are_no_indices_and_codes_from_indices_raises(quantizer):
    output = quantizer(torch.randn(1, 3, 1, 2, 2))
    assert output.indices is None and (quantizer.codebook_size, quantizer.digits) == (0, ())
    with pytest.raises(ValueError, match=f"{type(quantizer).__name__} is continuous"):
        quantizer.codes_from_indices(torch.zeros(1, 1, 2, 2, 1, dtype=torch.long))


def test_identity_is_the_identity():
    latents = torch.randn(2, 3, 1, 2, 2)
    assert torch.equal(Identity(dim=3)(latents).codes, latents)


def test_divergence_is_that_of_normal_distributions():
    quantizer, latents = KL(dim=4), torch.randn(3, 4, 1, 2, 5)
    torch.nn.init.normal_(quantizer.moments.weight, std=0.5)
    mean, log_variance = quantizer.moments(latents.permute(0, 2, 3, 4, 1)).chunk(2, dim=-1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum((1, 2, 3, 4)).mean()
    torch.testing.assert_close(quantizer(latents).losses["kl"], expected)


def test_samples_have_the_mean_and_deviation_and_evaluation_takes_the_mean():
    quantizer, latents = KL(dim=2), torch.tensor([0.5, -1.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 1, 100, 100)
    samples = quantizer(latents).codes
    torch.testing.assert_close(samples.mean((2, 3, 4)), torch.tensor([[0.5, -1.0]]), atol=0.01, rtol=0)
    torch.testing.assert_close(samples.std((2, 3, 4)), torch.full((1, 2), torch.tensor(-2.0).exp()), atol=0.01, rtol=0)
    torch.testing.assert_close(quantizer.eval()(latents).codes, latents)

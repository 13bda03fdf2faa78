"""The weights of each quantizer's losses are those of its paper or of the paper's code."""

from __future__ import annotations

import pytest

from toolkit.quantizers import FSQ, IBQ, KL, LFQ, VQ


@pytest.mark.parametrize(("quantizer", "weights"), [
    # O2-MAGVIT2, after MAGVIT-v2.
    (LFQ(bits=4), {"commitment": 0.25, "per_sample_entropy": 0.1, "codebook_entropy": -0.1}),
    # SEED-Voken's IBQ: mse(code, z) + mse(z, sg row) + 0.25 mse(row, sg z), and 0.05 (per sample - codebook entropy).
    (IBQ(codebook_size=4, dim=2), {"quantization": 1.0, "commitment": 1.0, "codebook": 0.25,
                                   "per_sample_entropy": 0.05, "codebook_entropy": -0.05}),
    # VQ-VAE, eq. 3 with beta = 0.25; the codebook of running averages has no loss (appendix A.1).
    (VQ(codebook_size=4, dim=2), {"commitment": 0.25, "codebook": 1.0}),
    (VQ(codebook_size=4, dim=2, update="ema"), {"commitment": 0.25}),
    (FSQ(levels=[3, 3]), {}),
    # Latent diffusion (arXiv:2112.10752).
    (KL(dim=2), {"kl": 1e-6})], ids=lambda value: type(value).__name__)
def test_loss_weights_are_the_papers(quantizer, weights):
    assert quantizer.loss_weights == weights

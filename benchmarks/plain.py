"""Plain versions of what the toolkit computes in a better way, for comparison only."""

from __future__ import annotations

import torch
from torch import Tensor


def full_softmax_entropies(latents: Tensor, inv_temperature: float) -> tuple[Tensor, Tensor]:
    """What ``toolkit.quantizers.entropy.binary_entropies`` computes, by listing all 2^bits codes per position.

    Args:
        latents: (N, bits).
        inv_temperature: The logit of code c is ``2 * inv_temperature * <latents, c>``.

    Returns:
        per_sample and codebook entropy, () each, in nats.
    """
    bits = latents.shape[1]
    place = 2 ** torch.arange(bits - 1, -1, -1)
    codes = ((torch.arange(2**bits)[:, None] & place) > 0).to(latents.dtype) * 2 - 1  # (K, bits)
    log_probabilities = (2 * inv_temperature * latents @ codes.T).log_softmax(dim=1)  # (N, K)
    probabilities = log_probabilities.exp()
    per_sample = -(probabilities * log_probabilities).sum(1).mean()
    average = probabilities.mean(0)
    return per_sample, -(average * (average + 1e-5).log()).sum()

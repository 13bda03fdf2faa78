"""Entropies of a binary code's assignment distribution, exactly, without ever listing the codes per position.

A code c in {-1, 1}^bits gets the logit ``2 * inv_temperature * <z, c>`` (LFQ, arXiv:2310.05737, eq. 4).
Logits are sums over bits, so a position's distribution is a product over bits. Its entropy is a sum
of binary entropies, and the batch average over all 2^bits codes is one matrix product of two
half-codes: ``P_hi^T P_lo / N`` with (N, 2^(bits/2)) factors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.layers import mean_over_processes

EXACT_BITS = 24  # beyond this the 2^bits average itself no longer fits comfortably


def _code_probabilities(positive: Tensor, negative: Tensor) -> Tensor:
    """Bit probabilities (N, bits), of +1 and of -1 -> probabilities (N, 2^bits), first bit slowest."""
    joint = positive.new_ones(len(positive), 1)
    for bit in range(positive.shape[1]):
        pair = torch.stack([negative[:, bit], positive[:, bit]], dim=1)  # (N, 2)
        joint = (joint.unsqueeze(2) * pair.unsqueeze(1)).flatten(1)
    return joint


def binary_entropies(latents: Tensor, inv_temperature: float, *, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The two entropies of LFQ's loss, equal to the softmax over all 2^bits codes.

    Args:
        latents: (N, bits) float32 or float64.
        inv_temperature: The logit of code c is ``2 * inv_temperature * <latents, c>``.
        eps: Added inside the codebook entropy's logarithm.

    Returns:
        per_sample: () mean over positions of each one's entropy, in nats, [0, bits ln 2].
        codebook: () ``-sum p log(p + eps)`` of the distribution p averaged over the positions of
        all processes, in nats.

    Raises:
        ValueError: If there are more than 24 bits.

    Example:
        >>> per_sample, codebook = binary_entropies(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), 100.0)
        >>> round(per_sample.item(), 4), round(codebook.item(), 4)   # two sure positions, two codes in use
        (0.0, 0.6931)
    """
    n, bits = latents.shape
    if bits > EXACT_BITS:
        raise ValueError(f"binary_entropies is exact up to {EXACT_BITS} bits, got {bits}; split them into groups.")
    log_odds = 4 * inv_temperature * latents
    positive, negative = torch.sigmoid(log_odds), torch.sigmoid(-log_odds)
    # H = softplus(-|l|) + |l| sigmoid(-|l|) for log-odds l: two positive terms, nothing cancels.
    sure = log_odds.abs()
    per_sample = (F.softplus(-sure) + sure * torch.sigmoid(-sure)).sum(1).mean()
    half = bits // 2
    high = _code_probabilities(positive[:, :half], negative[:, :half])
    low = _code_probabilities(positive[:, half:], negative[:, half:])
    average = mean_over_processes(high.T @ low / n)  # (2^half, 2^(bits - half))
    codebook = -(average * torch.log(average + eps)).sum()
    return per_sample, codebook

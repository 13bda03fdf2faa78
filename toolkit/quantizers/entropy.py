"""The two entropies of binary codes: per sample (to be low) and of the codebook (to be high).

Plain formula (LFQ, arXiv:2310.05737, eq. 4), with all K = 2^bits codes in {-1, 1}^bits as rows of ``codes``::

    p = softmax(2 * inv_temperature * z @ codes.T)      # (N, K)
    q = p.mean(0)                                       # (K,)
    per_sample = -(p * log(p)).sum(1).mean()
    codebook = -(q * log(q + eps)).sum()

Factorised, with the same result:

1. A logit is a sum over bits, so p is a product over bits: bit i is +1 with probability sigmoid(4 inv_temperature z_i).
2. The entropy of a product is the sum of its factors' entropies, so ``per_sample`` sums the entropies of the bits.
3. With P_hi (N, 2^(bits/2)) of the first half of the bits and P_lo of the rest, p[n, (a, b)] = P_hi[n, a] P_lo[n, b],
   and q = P_hi^T P_lo / N is one matrix product. This stores 2 N 2^(bits/2) + K numbers instead of N K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.layers import mean_over_processes

EXACT_BITS = 24  # q has 2^bits entries: 64 MiB in float32
# Smaller probabilities count as 0: products of two would be subnormal numbers, with which processors are slow. In
# float32 they change neither q, which eps is added to, nor its sum, which is 1.
SMALLEST = 1e-19


def binary_entropies(latents: Tensor, inv_temperature: float, *, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The entropies above, in nats: latents (N, bits) -> per_sample (), codebook () of the batch of all processes."""
    n, bits = latents.shape
    log_odds = 4 * inv_temperature * latents
    positive, negative = torch.sigmoid(log_odds), torch.sigmoid(-log_odds)
    # Entropy of a bit with log-odds l: softplus(-|l|) + |l| sigmoid(-|l|). Both terms are positive: nothing cancels.
    size = log_odds.abs()
    per_sample = (F.softplus(-size) + size * torch.sigmoid(-size)).sum(1).mean()
    half = bits // 2
    p_hi = _code_probabilities(positive[:, :half], negative[:, :half])
    p_lo = _code_probabilities(positive[:, half:], negative[:, half:])
    q = mean_over_processes(p_hi.T @ p_lo / n)  # (2^half, 2^(bits - half))
    return per_sample, entropy(q, eps=eps)


def _code_probabilities(positive: Tensor, negative: Tensor) -> Tensor:
    """Probabilities of +1 and of -1 (N, bits) -> probabilities of the codes (N, 2^bits), first bit slowest."""
    joint = positive.new_ones(len(positive), 1)
    for bit in range(positive.shape[1]):
        pair = torch.stack([negative[:, bit], positive[:, bit]], dim=1)  # (N, 2)
        joint = (joint.unsqueeze(2) * pair.unsqueeze(1)).flatten(1)
        joint = F.threshold(joint, SMALLEST, 0.0)
    return joint


def entropy(probabilities: Tensor, *, eps: float = 1e-5) -> Tensor:
    """``-sum p log(p + eps)`` over all entries, in nats."""
    return -(probabilities * torch.log(probabilities + eps)).sum()


def grouped_binary_entropies(latents: Tensor, inv_temperature: float, *, groups: int, num_codebooks: int = 1,
                             eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Both entropies of latents (..., num_codebooks * bits), summed over groups of bits, averaged over codebooks.

    The per-sample entropy is the same for any number of groups. The codebook entropy is exact with one group; with
    more it treats the groups as independent, which overestimates it. ``eps`` should be far below 2^-bits.
    """
    split = rearrange(latents, "... (g k) -> g (...) k", g=num_codebooks * groups)
    pairs = [binary_entropies(group, inv_temperature, eps=eps) for group in split]
    per_sample, codebook = (torch.stack(values).sum() / num_codebooks for values in zip(*pairs, strict=True))
    return per_sample, codebook


def check_entropy_groups(name: str, bits: int, groups: int) -> None:
    """Raise a ValueError if ``bits`` do not fit an int64 index, or the groups do not fit the bits."""
    if not 1 <= bits <= 62:
        raise ValueError(f"{name} needs 1 to 62 bits per codebook, got {bits}; use several codebooks.")
    if groups < 1 or bits % groups or bits // groups > EXACT_BITS:
        raise ValueError(
            f"{name} needs entropy groups of at most {EXACT_BITS} bits, got bits={bits} and entropy_groups={groups}; "
            f"choose a divisor of {bits}, at least {-(-bits // EXACT_BITS)}.")

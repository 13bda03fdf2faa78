"""The two entropies of binary codes: per sample (minimised) and of the codebook (maximised).

Plain formula (LFQ, arXiv:2310.05737, eq. 4), with all K = 2^bits codes in {-1, 1}^bits as rows of ``codes``::

    p = softmax(2 * inv_temperature * z @ codes.T)      # (N, K)
    q = p.mean(0)                                       # (K,)
    per_sample = -(p * log(p)).sum(1).mean()
    codebook = -(q * log(q + eps)).sum()

Factorised, with the same result:

1. A logit is a sum over bits, so p is a product over bits: bit i is +1 with probability sigmoid(4 inv_temperature z_i).
2. The entropy of a product is the sum of its factors' entropies, so ``per_sample`` sums the entropies of the bits.
3. Let P_hi (N, 2^(bits/2)) hold the probabilities of the first half's codes and P_lo those of the second half's. Then
   p[n, (a, b)] = P_hi[n, a] P_lo[n, b], and q = P_hi^T P_lo / N: 2 N 2^(bits/2) + K stored numbers instead of N K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.layers import mean_over_processes

MAX_GROUP_BITS = 24  # q has 2^bits entries: 64 MiB in float32
# Smaller probabilities are set to 0. A product of two of them would be subnormal, and subnormal arithmetic is slow. In
# float32 such products change neither q + eps nor the sum of q.
MIN_PROBABILITY = 1e-19


def binary_entropies(latents: Tensor, inv_temperature: float, *, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Latents (N, bits) -> per_sample () of this process, codebook () of all processes, in nats; formulas above."""
    n, bits = latents.shape
    log_odds = 4 * inv_temperature * latents
    p_plus, p_minus = torch.sigmoid(log_odds), torch.sigmoid(-log_odds)
    # Entropy of a bit with log-odds l: softplus(-|l|) + |l| sigmoid(-|l|). Both terms are positive: nothing cancels.
    magnitude = log_odds.abs()
    per_sample = (F.softplus(-magnitude) + magnitude * torch.sigmoid(-magnitude)).sum(1).mean()
    half = bits // 2
    p_hi = _code_probabilities(p_plus[:, :half], p_minus[:, :half])
    p_lo = _code_probabilities(p_plus[:, half:], p_minus[:, half:])
    q = mean_over_processes(p_hi.T @ p_lo / n)  # (2^half, 2^(bits - half))
    return per_sample, entropy(q, eps=eps)


def _code_probabilities(p_plus: Tensor, p_minus: Tensor) -> Tensor:
    """Probabilities of +1 and of -1 (N, bits) -> of the codes (N, 2^bits), the first bit most significant."""
    joint = p_plus.new_ones(len(p_plus), 1)
    for bit in range(p_plus.shape[1]):
        pair = torch.stack([p_minus[:, bit], p_plus[:, bit]], dim=1)  # (N, 2)
        joint = (joint.unsqueeze(2) * pair.unsqueeze(1)).flatten(1)
        joint = F.threshold(joint, MIN_PROBABILITY, 0.0)
    return joint


def entropy(probabilities: Tensor, *, eps: float = 1e-5) -> Tensor:
    """``-sum p log(p + eps)`` over all entries, in nats."""
    return -(probabilities * torch.log(probabilities + eps)).sum()


def grouped_binary_entropies(latents: Tensor, inv_temperature: float, *, groups: int, num_codebooks: int = 1,
                             eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Both entropies of latents (..., num_codebooks * bits), summed over a codebook's groups, averaged over codebooks.

    One group gives the joint codebook entropy. More groups give the sum of their entropies, an upper bound. The default
    ``eps`` is O2-MAGVIT2's; it lowers the codebook entropy of a group of 18 bits by up to 1.29 nats.
    """
    split = rearrange(latents, "... (g k) -> g (...) k", g=num_codebooks * groups)
    pairs = [binary_entropies(group, inv_temperature, eps=eps) for group in split]
    per_sample, codebook = (torch.stack(values).sum() / num_codebooks for values in zip(*pairs, strict=True))
    return per_sample, codebook


def check_bits(name: str, bits: int, groups: int) -> None:
    """Raise a ValueError unless ``bits`` is 1 to 62 and divides into ``groups`` equal groups of at most 24 bits."""
    if not 1 <= bits <= 62:
        raise ValueError(f"{name} needs 1 to 62 bits per codebook, got {bits}.")
    if groups < 1 or bits % groups or bits // groups > MAX_GROUP_BITS:
        raise ValueError(
            f"{name} needs equal entropy groups of at most {MAX_GROUP_BITS} bits, got bits={bits} and "
            f"entropy_groups={groups}; choose a divisor of {bits}, at least {-(-bits // MAX_GROUP_BITS)}.")

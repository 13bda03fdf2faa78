"""Entropies of soft assignments: of binary codes exactly, without ever listing the codes per position.

A code c in {-1, 1}^bits gets the logit ``2 * inv_temperature * <z, c>`` (LFQ, arXiv:2310.05737, eq. 4).
Logits are sums over bits, so a position's distribution is a product over bits. Its entropy is a sum
of binary entropies, and the batch average over all 2^bits codes is one matrix product of two
half-codes: ``P_hi^T P_lo / N`` with (N, 2^(bits/2)) factors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
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
    return per_sample, entropy_of(average, eps=eps)


def entropy_of(probabilities: Tensor, *, eps: float = 1e-5) -> Tensor:
    """``-sum p log(p + eps)`` over all of a distribution's probabilities, in nats.

    Example:
        >>> round(entropy_of(torch.tensor([0.5, 0.5]), eps=0.0).item(), 4)
        0.6931
    """
    return -(probabilities * torch.log(probabilities + eps)).sum()


def grouped_binary_entropies(latents: Tensor, inv_temperature: float, *, groups: int, num_codebooks: int = 1,
                             eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Both entropies, each codebook's bits split into groups whose entropies are summed.

    The per-sample entropy is the same for any number of groups. The codebook's is exact with one group; with
    more it is that of a distribution whose groups are independent, which is never less.

    Args:
        latents: (..., num_codebooks * bits); a codebook has consecutive channels, and so has a group.
        inv_temperature: As in :func:`binary_entropies`.
        groups: How many a codebook is split into.
        num_codebooks: G, over which both are averaged.
        eps: As in :func:`binary_entropies`; to be far below 2^-bits where the average is to be even.

    Returns:
        per_sample (), codebook (), in nats.

    Example:
        >>> same = torch.tensor([[9.0, 9.0], [-9.0, -9.0]])   # two bits that always agree
        >>> [round(grouped_binary_entropies(same, 1.0, groups=g)[1].item(), 3) for g in (1, 2)]
        [0.693, 1.386]
    """
    split = rearrange(latents, "... (g k) -> g (...) k", g=num_codebooks * groups)
    pairs = [binary_entropies(group, inv_temperature, eps=eps) for group in split]
    per_sample, codebook = (torch.stack(entropy).sum() / num_codebooks for entropy in zip(*pairs, strict=True))
    return per_sample, codebook


def check_entropy_groups(name: str, bits: int, groups: int) -> None:
    """Refuse groups that do not divide the bits, or are too large for an exact entropy.

    Raises:
        ValueError: With what to do.

    Example:
        >>> check_entropy_groups("BSQ", 36, 2)
    """
    if groups < 1 or bits % groups or bits // groups > EXACT_BITS:
        raise ValueError(
            f"{name} computes entropies over groups of at most {EXACT_BITS} bits, got bits={bits} in "
            f"entropy_groups={groups}; choose a divisor of {bits}, at least {-(-bits // EXACT_BITS)}.")


def softmax_sums(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What the two entropies of a softmax over any codebook are made of, for some of the positions.

    Args:
        logits: (N, K).

    Returns:
        () sum over positions of each one's entropy, in nats, and (K,) sum of the positions' probabilities,
        so that positions may come in chunks.

    Example:
        >>> entropies, probabilities = softmax_sums(torch.zeros(3, 4))
        >>> round(entropies.item() / 3, 4), probabilities.tolist()   # ln 4
        (1.3863, [0.75, 0.75, 0.75, 0.75])
    """
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    return -(p * log_p).sum(), p.sum(0)

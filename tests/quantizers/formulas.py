"""Layouts and formulas that tests of quantizers share."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def as_latents(z: Tensor | list[list[float]]) -> Tensor:
    """(N, d) -> latents (1, d, 1, 1, N)."""
    return torch.as_tensor(z, dtype=torch.float32).T[None, :, None, None]


def as_rows(latents: Tensor) -> Tensor:
    """Latents or codes (B, d, t, h, w) -> (N, d)."""
    return latents.movedim(1, -1).flatten(0, 3)


def sign_codes(bits: int) -> Tensor:
    """All codes of -1 and 1 (2^bits, bits) float64, the first bit most significant."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)), dtype=torch.float64)


def softmax_entropies(z: Tensor, codes: Tensor, inv_temperature: float, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Both entropies of softmax(2 inv_temperature z codes^T) in float64: per sample, and of the mean over samples."""
    log_p = (2 * inv_temperature * z.double() @ codes.double().T).log_softmax(1)
    average = log_p.exp().mean(0)
    return -(log_p.exp() * log_p).sum(1).mean(), -(average * (average + eps).log()).sum()

"""How gradients go through a quantizer: straight through (arXiv:1308.3432), or rotated (arXiv:2410.06424)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-6  # smallest length that is divided by
# Largest factor by which a latent's length may scale a gradient: 1 / |z| of tiny latents would overflow float16.
MAX_GAIN = 2.0**9


def straight_through(z: Tensor, codes: Tensor, *, rotation_trick: bool = False) -> Tensor:
    """Latents and codes (..., d) -> exactly the codes (..., d), with a gradient to the latents and none to ``codes``.

    By default the latents get the gradient of the codes. The rotation trick treats the code as R z, with R constant, so
    the latents get R^T times that gradient. R = (|code| / |z|) (I - 2 r r^T + 2 b a^T), with unit vectors a, b and r of
    the latent, the code and a + b (Fifty et al., arXiv:2410.06424, sec. 4.2). |code| / |z| is at most ``MAX_GAIN``.

    Example:
        >>> z = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> straight_through(z, torch.tensor([0.0, 10.0])).tolist()
        [0.0, 10.0]
        >>> rotated = straight_through(z, torch.tensor([0.0, 10.0]), rotation_trick=True)
        >>> rotated.backward(torch.tensor([0.0, 1.0]))   # along the code -> along the latent, times |code| / |z| = 2
        >>> [round(x, 4) for x in z.grad.tolist()]
        [1.2, 1.6]
    """
    codes = codes.detach()
    path = _rotated(z, codes) if rotation_trick else z
    return codes + (path - path.detach())  # x - x.detach() is 0 with the gradient of x


def _rotated(z: Tensor, codes: Tensor) -> Tensor:
    """z times the constant scaled rotation that maps z to the codes."""
    with torch.no_grad():
        length = z.norm(dim=-1, keepdim=True)
        ratio = codes.norm(dim=-1, keepdim=True) / length.clamp(min=_EPS)
        scale = torch.where(length > _EPS, ratio.clamp(max=MAX_GAIN), 1.0)
        a, b = z / length.clamp(min=_EPS), F.normalize(codes, dim=-1, eps=_EPS)
        r = F.normalize(a + b, dim=-1, eps=_EPS)
    z_dot_r = (z * r).sum(-1, keepdim=True)
    return scale * (z - 2 * z_dot_r * r + 2 * (z * a).sum(-1, keepdim=True) * b)


def unit_length(z: Tensor) -> Tensor:
    """Latents (..., d) -> z / |z| (..., d), with a gradient that stays finite in float16.

    Where |z| is below 1 / ``MAX_GAIN``, zero included, the gradient is that of ``MAX_GAIN * z``. Lengths below 1e-6
    count as 1e-6.

    Example:
        >>> z = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
        >>> [[round(x, 4) for x in row] for row in unit_length(z).tolist()]
        [[0.6, 0.8], [0.0, 0.0]]
        >>> torch.autograd.grad(unit_length(z)[1].sum(), z)[0][1].tolist()
        [512.0, 512.0]
    """
    unit = F.normalize(z, dim=-1, eps=_EPS)
    is_tiny = z.detach().norm(dim=-1, keepdim=True) < 1 / MAX_GAIN
    scaled = MAX_GAIN * z
    return torch.where(is_tiny, unit.detach() + (scaled - scaled.detach()), unit)

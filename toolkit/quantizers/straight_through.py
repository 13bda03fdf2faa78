"""How gradients pass a quantizer: straight through (arXiv:1308.3432), or rotated (arXiv:2410.06424)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-6


def straight_through(z: Tensor, codes: Tensor, *, rotation_trick: bool = False) -> Tensor:
    """The codes, to the last bit, with a gradient to the latents.

    Straight through, the gradient of the codes is that of the latents. With the rotation trick the codes
    count as the latents rotated and stretched by constants, so that the gradient keeps its angle to the
    code instead of its direction (Fifty et al., arXiv:2410.06424, sec. 4.2): with unit vectors a of the
    latent and b of the code and r = (a + b) / |a + b|, the code is |code| / |z| (I - 2 r r^T + 2 b a^T) z.

    Args:
        z: (..., d) latents.
        codes: (..., d); their own gradient is not passed on.
        rotation_trick: Which of the two.

    Returns:
        (..., d), equal to ``codes``.

    Example:
        >>> z = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> straight_through(z, torch.tensor([0.0, 10.0])).tolist()
        [0.0, 10.0]
        >>> rotated = straight_through(z, torch.tensor([0.0, 10.0]), rotation_trick=True)
        >>> rotated.backward(torch.tensor([0.0, 1.0]))   # along the code, so along the latent, twice as long
        >>> [round(x, 4) for x in z.grad.tolist()]
        [1.2, 1.6]
    """
    codes = codes.detach()
    moving = _rotated(z, codes) if rotation_trick else z
    return codes + (moving - moving.detach())


def _rotated(z: Tensor, codes: Tensor) -> Tensor:
    """A constant rotation and stretching of z that takes it to the codes."""
    with torch.no_grad():
        size = z.norm(dim=-1, keepdim=True)
        stretch = torch.where(size > _EPS, codes.norm(dim=-1, keepdim=True) / size.clamp(min=_EPS), 1.0)
        a, b = z / size.clamp(min=_EPS), F.normalize(codes, dim=-1, eps=_EPS)
        r = F.normalize(a + b, dim=-1, eps=_EPS)
    along = (z * r).sum(-1, keepdim=True)
    return stretch * (z - 2 * along * r + 2 * (z * a).sum(-1, keepdim=True) * b)

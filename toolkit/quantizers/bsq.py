"""Binary spherical quantization (Zhao et al., arXiv:2406.07548)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from toolkit.quantizers.lfq import LFQ
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class BSQ(LFQ):
    """Binary spherical quantization: latents on the unit sphere become the nearest corner of a cube (arXiv:2406.07548).

    With u = z / |z| the code is sign(u) / sqrt(bits), which has length 1. The soft assignment is
    p(c | u) ~ exp(2 inv_temperature <u, c>), a product over bits.

    Losses: ``commitment``, the mean over positions of |u - code|^2, below 2 for any latents; ``per_sample_entropy`` of
    p; ``codebook_entropy`` of the mean of p over the batch of all processes.

    Digit order: a positive sign is bit 1; the first channel is the most significant bit. Zero counts as negative.

    Args:
        bits: d, at most 62; K = 2^bits.
        inv_temperature: Sharpness of the soft assignment.
        entropy_groups: Number of equal groups of bits whose codebook entropies are summed. 1 is exact; None is one
            group per bit, the paper's approximation for any number of bits.
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If ``bits`` is out of range, or the groups do not divide it or exceed 24 bits.

    Example:
        >>> import torch
        >>> bsq = BSQ(bits=4).eval()
        >>> output = bsq(torch.tensor([0.1, -3.0, 2.0, 0.4]).reshape(1, 4, 1, 1, 1))
        >>> output.indices.item(), output.codes.flatten().tolist()
        (11, [0.5, -0.5, 0.5, 0.5])
    """

    entropy_eps = 1e-8  # of the paper's code

    def __init__(self, *, bits: int, inv_temperature: float = 1.0, entropy_groups: int | None = None,
                 rotation_trick: bool = False):
        super().__init__(bits=bits, scale=max(bits, 1)**-0.5, inv_temperature=inv_temperature,  # LFQ refuses 0 bits
                         entropy_groups=bits if entropy_groups is None else entropy_groups,
                         rotation_trick=rotation_trick)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        codes, indices, losses = super().quantize(F.normalize(z, dim=-1, eps=1e-6) if self.training else z)
        if self.training:
            losses["commitment"] = losses["commitment"] * self.dim  # LFQ's is the mean over channels
        return codes, indices, losses

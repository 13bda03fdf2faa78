"""Binary spherical quantization (Zhao et al., arXiv:2406.07548)."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.quantizers.digits import DigitQuantizer
from toolkit.quantizers.entropy import check_bits, grouped_binary_entropies
from toolkit.quantizers.straight_through import straight_through, unit_length
from toolkit.registry import QUANTIZERS

_EPS = 1e-8  # eps of the codebook entropy in the paper's code


@QUANTIZERS.register_module()
class BSQ(DigitQuantizer):
    """Binary spherical quantization: latents on the unit sphere become the nearest corner of a cube (arXiv:2406.07548).

    With u = z / |z| the code is sign(u) / sqrt(bits), which has length 1. The soft assignment is
    p(c | u) = softmax(2 inv_temperature <u, c>) over the codes c, a product over bits.

    Losses: ``commitment``, the mean over positions of |u - code|^2, below 2 for any latents; ``per_sample_entropy`` of
    p; ``codebook_entropy`` of the mean of p over the batch of all processes.

    The gradient of latents shorter than 2^-9 is bounded (:func:`toolkit.quantizers.unit_length`), for float16.

    Digit order: a positive sign is bit 1; the first channel is the most significant bit. Zero counts as negative.

    Args:
        bits: d, at most 62; K = 2^bits.
        inv_temperature: Sharpness of the soft assignment.
        entropy_groups: Number of equal groups of bits, whose codebook entropies are summed. 1: the joint entropy; None:
            a group per bit, the paper's approximation for any number of bits.
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If ``bits`` is out of range, or the groups do not divide it or exceed 24 bits.

    Example:
        >>> bsq = BSQ(bits=4).eval()
        >>> output = bsq(torch.tensor([0.1, -3.0, 2.0, 0.4]).reshape(1, 4, 1, 1, 1))
        >>> output.indices.item(), output.codes.flatten().tolist()
        (11, [0.5, -0.5, 0.5, 0.5])
    """

    loss_weights = {"commitment": 0.25, "per_sample_entropy": 0.1, "codebook_entropy": -0.1}

    def __init__(self, *, bits: int, inv_temperature: float = 1.0, entropy_groups: int | None = None,
                 rotation_trick: bool = False):
        groups = bits if entropy_groups is None else entropy_groups
        check_bits("BSQ", bits, groups)
        super().__init__([2] * bits, most_significant_first=True)
        self.scale, self.inv_temperature, self.rotation_trick = bits**-0.5, inv_temperature, rotation_trick
        self.entropy_groups = groups

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        positive = z > 0
        codes, indices = self._codes(positive), self.digits_to_indices(positive)
        if not self.training:
            return codes, indices, {}
        unit = unit_length(z)
        per_sample, codebook = grouped_binary_entropies(unit * self.scale, self.inv_temperature,
                                                        groups=self.entropy_groups, eps=_EPS)
        losses = {"commitment": (unit - codes).square().sum(-1).mean(), "per_sample_entropy": per_sample,
                  "codebook_entropy": codebook}
        return straight_through(unit, codes, rotation_trick=self.rotation_trick), indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        return self._codes(self.indices_to_digits(indices) > 0)

    def _codes(self, positive: Tensor) -> Tensor:
        return torch.where(positive, self.scale, -self.scale).to(torch.float32)

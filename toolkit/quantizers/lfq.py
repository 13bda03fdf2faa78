"""Lookup-free quantization (Yu et al., arXiv:2310.05737, sec. 3.1)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from toolkit.quantizers.digits import DigitQuantizer
from toolkit.quantizers.entropy import check_bits, grouped_binary_entropies
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class LFQ(DigitQuantizer):
    """Lookup-free quantization: each latent channel becomes its sign (MAGVIT-v2, arXiv:2310.05737).

    Codes are scale * sign(z); p(c | z) is the softmax of 2 inv_temperature <z, c> over the codes c. Losses:
    ``commitment``, the mean of (z - code)^2; ``per_sample_entropy``, of p; ``codebook_entropy``, of the mean of p over
    the batch of all processes. A negative weight maximises a loss.

    Digit order: a positive sign is bit 1. The first channel of a codebook is the most significant bit of its index
    (cofe-ai's O2-MAGVIT2), or the least significant one with ``bit_order="lsb_first"`` (Google's praxis,
    Open-MAGVIT2). Codebook g has channels g * bits to (g + 1) * bits.

    Args:
        bits: Bits per codebook, at most 62; K = 2^bits.
        num_codebooks: G; d = bits * G.
        scale: Absolute value of a code's entries.
        inv_temperature: Sharpness of the soft assignment.
        entropy_groups: Number of equal groups of bits per codebook whose entropies are summed; 1: the joint entropy.
        bit_order: "msb_first" or "lsb_first".
        sign_of_zero: -1, or 1 as in praxis.
        rotation_trick: Pass gradients rotated, codebook by codebook (arXiv:2410.06424), instead of straight through.

    Raises:
        ValueError: If an argument is out of range, or the groups do not divide ``bits`` or exceed 24 bits.

    Example:
        >>> lfq = LFQ(bits=2)
        >>> lfq.lookup(torch.arange(4).reshape(1, 4, 1))[0].tolist()
        [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """

    loss_weights = {"commitment": 0.25, "per_sample_entropy": 0.1, "codebook_entropy": -0.1}

    def __init__(self, *, bits: int = 18, num_codebooks: int = 1, scale: float = 1.0,
                 inv_temperature: float = 100.0, entropy_groups: int = 1, bit_order: str = "msb_first",
                 sign_of_zero: int = -1, rotation_trick: bool = False):
        if num_codebooks < 1 or not all(0 < value < float("inf") for value in (scale, inv_temperature)):
            raise ValueError("LFQ needs num_codebooks >= 1, and finite scale > 0 and inv_temperature > 0, got "
                             f"{num_codebooks}, {scale} and {inv_temperature}.")
        check_bits("LFQ", bits, entropy_groups)
        if bit_order not in ("msb_first", "lsb_first") or sign_of_zero not in (-1, 1):
            raise ValueError("LFQ needs bit_order 'msb_first' or 'lsb_first' and sign_of_zero -1 or 1, got "
                             f"{bit_order!r} and {sign_of_zero!r}.")
        super().__init__([2] * bits, most_significant_first=bit_order == "msb_first", num_codebooks=num_codebooks)
        self.bits, self.scale, self.sign_of_zero, self.rotation_trick = bits, scale, sign_of_zero, rotation_trick
        self.inv_temperature, self.entropy_groups = inv_temperature, entropy_groups

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        positive = z >= 0 if self.sign_of_zero == 1 else z > 0
        codes, indices = self._codes(positive), self.digits_to_indices(positive)
        if not self.training:
            return codes, indices, {}
        per_sample, codebook = grouped_binary_entropies(  # <z, scale c> = <scale z, c>
            z * self.scale, self.inv_temperature, groups=self.entropy_groups, num_codebooks=self.num_codebooks)
        losses = {"commitment": (z - codes).square().mean(), "per_sample_entropy": per_sample,
                  "codebook_entropy": codebook}
        z, codes = (rearrange(x, "b n (g k) -> b n g k", g=self.num_codebooks) for x in (z, codes))
        return straight_through(z, codes, rotation_trick=self.rotation_trick).flatten(2), indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        return self._codes(self.indices_to_digits(indices) > 0)

    def _codes(self, positive: Tensor) -> Tensor:
        return torch.where(positive, self.scale, -self.scale).to(torch.float32)

"""Binary spherical quantization (Zhao et al., arXiv:2406.07548)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.contracts import Quantizer
from toolkit.quantizers.digits import join_digits, place_values, split_digits
from toolkit.quantizers.entropy import check_entropy_groups, grouped_binary_entropies
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS

_EPS = 1e-8  # within the codebook entropy's logarithm, as in the paper's code


@QUANTIZERS.register_module()
class BSQ(Quantizer):
    """Binary spherical quantization: latents of unit length become the nearest corner of a cube (arXiv:2406.07548).

    With u = z / |z| the code is sign(u) / sqrt(bits), of unit length too. A latent that is as likely on
    each side has the soft assignment p(c | u) ~ exp(2 inv_temperature <u, c>), a product over bits.
    Losses: ``commitment``, the mean over positions of |u - code|^2, which is below 2 whatever the
    network does; ``per_sample_entropy``, of p, exact as a sum over bits; ``codebook_entropy``, of the
    average of p over the batch of all processes.

    Digit order: a positive sign is a bit's one, the first channel the most significant bit. A latent of
    zero counts as negative.

    Args:
        bits: d, and K = 2^bits; up to 62.
        inv_temperature: Sharpness of the soft assignment.
        entropy_groups: Into how many equal groups of bits the average is split, whose entropies are summed.
            None: every bit by itself, the paper's approximation, which any number of bits can have; 1 is exact.
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If bits are out of range, or the groups do not divide them or have more than 24.

    Example:
        >>> bsq = BSQ(bits=4).eval()
        >>> output = bsq(torch.tensor([0.1, -3.0, 2.0, 0.4]).reshape(1, 4, 1, 1, 1))
        >>> output.indices.item(), output.codes.flatten().tolist()
        (11, [0.5, -0.5, 0.5, 0.5])
    """

    loss_weights = {"commitment": 0.25, "per_sample_entropy": 0.1, "codebook_entropy": -0.1}

    def __init__(self, *, bits: int, inv_temperature: float = 1.0, entropy_groups: int | None = None,
                 rotation_trick: bool = False):
        super().__init__()
        if not 1 <= bits <= 62:
            raise ValueError(f"BSQ needs 1 to 62 bits, got {bits}; use Grouped for more.")
        self.entropy_groups = bits if entropy_groups is None else entropy_groups
        check_entropy_groups("BSQ", bits, self.entropy_groups)
        self.dim, self.codebook_size = bits, 2**bits
        self.scale, self.inv_temperature, self.rotation_trick = bits**-0.5, inv_temperature, rotation_trick
        self.register_buffer("places", place_values([2] * bits, first="most"), persistent=False)

    @property
    def digits(self) -> tuple[int, ...]:
        """One bit per channel."""
        return (2,) * self.dim

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, N, d) -> codes (B, N, d), indices (B, N, 1), losses."""
        positive = z > 0
        codes, indices = self._codes(positive), join_digits(positive, self.places).unsqueeze(-1)
        if not self.training:
            return codes, indices, {}
        unit = F.normalize(z, dim=-1, eps=1e-6)
        per_sample, codebook = grouped_binary_entropies(unit * self.scale, self.inv_temperature,
                                                        groups=self.entropy_groups, eps=_EPS)
        losses = {"commitment": (unit - codes).square().sum(-1).mean(), "per_sample_entropy": per_sample,
                  "codebook_entropy": codebook}
        return straight_through(unit, codes, rotation_trick=self.rotation_trick), indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, 1) -> codes (B, N, d), of unit length."""
        return self._codes(split_digits(indices.squeeze(-1), self.places, 2) > 0)

    def _codes(self, positive: Tensor) -> Tensor:
        return torch.where(positive, self.scale, -self.scale).to(torch.float32)

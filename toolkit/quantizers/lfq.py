"""Lookup-free quantization (Yu et al., arXiv:2310.05737, sec. 3.1)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Quantizer
from toolkit.quantizers.entropy import EXACT_BITS, binary_entropies
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class LFQ(Quantizer):
    """Lookup-free quantization: each latent channel becomes its sign (MAGVIT-v2, arXiv:2310.05737).

    Codes are ``scale * sign(z)``. Losses: ``commitment``, the mean squared
    distance of latents and codes; ``per_sample_entropy`` of the soft assignment of a position, to
    be kept low; ``codebook_entropy`` of its average over the batch of all processes, to be kept
    high (hence its negative weight).

    Digit order: a positive sign is a bit's one. The first channel of a codebook is its index's most
    significant bit, as in O2-MAGVIT2, or with ``bit_order="lsb_first"`` its least significant one, as
    in Google's code and Open-MAGVIT2. Codebook g has channels g * bits to (g + 1) * bits.

    Args:
        bits: Bits per codebook, so K = 2^bits.
        num_codebooks: G; the latents have bits * G channels.
        scale: Size of a code's entries.
        inv_temperature: Sharpness of the soft assignment in the entropies.
        entropy_groups: Into how many equal groups of bits a codebook is split for its entropies,
            which are then summed; 1 is exact.
        bit_order: "msb_first" or "lsb_first", see above. Ids of one order mean other codes in the other.
        sign_of_zero: -1, or 1 as in Google's code.

    Raises:
        ValueError: If the groups do not divide the bits or a group has more than 24, or an option is
            not one of those above.

    Example:
        >>> lfq = LFQ(bits=2)
        >>> lfq.lookup(torch.arange(4).reshape(1, 4, 1))[0].tolist()
        [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """

    loss_weights = {"commitment": 0.25, "per_sample_entropy": 0.1, "codebook_entropy": -0.1}

    def __init__(self, *, bits: int = 18, num_codebooks: int = 1, scale: float = 1.0,
                 inv_temperature: float = 100.0, entropy_groups: int = 1, bit_order: str = "msb_first",
                 sign_of_zero: int = -1):
        super().__init__()
        if not 1 <= bits <= 62:
            raise ValueError(f"LFQ needs 1 to 62 bits per codebook, got {bits}; use several codebooks.")
        if num_codebooks < 1 or entropy_groups < 1:
            raise ValueError("LFQ needs at least one codebook and one entropy group, got "
                             f"num_codebooks={num_codebooks} and entropy_groups={entropy_groups}.")
        if bits % entropy_groups or bits // entropy_groups > EXACT_BITS:
            raise ValueError(
                f"LFQ computes entropies over groups of at most {EXACT_BITS} bits, got bits={bits} in "
                f"entropy_groups={entropy_groups}; choose a divisor of {bits}, at least {-(-bits // EXACT_BITS)}.")
        if bit_order not in ("msb_first", "lsb_first") or sign_of_zero not in (-1, 1):
            raise ValueError("LFQ takes bit_order 'msb_first' or 'lsb_first' and sign_of_zero -1 or 1, got "
                             f"{bit_order!r} and {sign_of_zero!r}.")
        self.bits, self.scale, self.sign_of_zero = bits, scale, sign_of_zero
        self.inv_temperature, self.entropy_groups = inv_temperature, entropy_groups
        self.dim, self.codebook_size, self.num_codebooks = bits * num_codebooks, 2**bits, num_codebooks
        place = 2 ** torch.arange(bits)
        self.register_buffer("place", place if bit_order == "lsb_first" else place.flip(0), persistent=False)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, N, d) -> straight-through codes (B, N, d), indices (B, N, G), losses."""
        positive = z >= 0 if self.sign_of_zero == 1 else z > 0
        codes = torch.where(positive, self.scale, -self.scale).to(z.dtype)
        digits = rearrange(positive, "b n (g k) -> b n g k", k=self.bits)
        indices = (digits * self.place).sum(-1)
        losses = {}
        if self.training:
            per_sample, codebook = self._entropies(z)
            losses = {"commitment": (z - codes).square().mean(), "per_sample_entropy": per_sample,
                      "codebook_entropy": codebook}
        if self.training:
            codes = codes + (z - z.detach())  # straight-through: the value is the code's to the last bit
        return codes, indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, G) -> codes (B, N, d), each entry -scale or scale."""
        digits = (indices.unsqueeze(-1) & self.place) > 0  # (B, N, G, bits)
        codes = torch.where(digits, self.scale, -self.scale).to(torch.float32)
        return rearrange(codes, "b n g k -> b n (g k)")

    def _entropies(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both entropies of a codebook: summed over its groups, averaged over codebooks."""
        groups = rearrange(z * self.scale, "b n (g e k) -> (g e) (b n) k", g=self.num_codebooks, e=self.entropy_groups)
        pairs = [binary_entropies(group, self.inv_temperature) for group in groups]
        per_sample, codebook = (torch.stack(entropy).sum() / self.num_codebooks
                                for entropy in zip(*pairs, strict=True))
        return per_sample, codebook

"""Vector quantization (van den Oord et al., arXiv:1711.00937)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Quantizer
from toolkit.registry import QUANTIZERS

_CHUNK = 2**24  # similarities held at a time, 64 MiB


def nearest_codes(z: Tensor, codebook: Tensor) -> Tensor:
    """The index of the code nearest to each vector, never holding all N * K distances.

    Args:
        z: (N, d) vectors.
        codebook: (K, d) codes.

    Returns:
        (N,) int64; of equally near codes the first.

    Example:
        >>> nearest_codes(torch.tensor([[0.1], [0.9]]), torch.tensor([[0.0], [1.0], [2.0]])).tolist()
        [0, 1]
    """
    bias = codebook.square().sum(1) / 2  # |z - c|^2 / 2 without |z|^2, which is the same for all c
    chunks = z.split(max(1, _CHUNK // len(codebook)))
    return torch.cat([torch.addmm(bias, chunk, codebook.T, alpha=-1).argmin(1) for chunk in chunks])


@QUANTIZERS.register_module()
class VQ(Quantizer):
    """Vector quantization with a learned codebook: each latent becomes its nearest code (arXiv:1711.00937).

    Losses: ``codebook``, the mean squared distance of the codes from the (fixed) latents, by whose
    gradient the codebook learns; ``commitment``, that of the latents from the (fixed) codes. With
    ``normalize`` both sides have unit length and the nearest is that of the smallest angle (ViT-VQGAN,
    arXiv:2110.04627; LlamaGen, arXiv:2406.06525). An index is its code's row in the codebook.

    Args:
        codebook_size: K.
        dim: d.
        normalize: Whether latents and codes are scaled to unit length.

    Example:
        >>> vq = VQ(codebook_size=4, dim=2)
        >>> _ = vq.codebook.data.copy_(torch.tensor([[0., 0.], [0., 1.], [1., 0.], [1., 1.]]))
        >>> vq(torch.tensor([0.9, 0.2]).reshape(1, 2, 1, 1, 1)).indices.item()
        2
    """

    loss_weights = {"codebook": 1.0, "commitment": 0.25}

    def __init__(self, *, codebook_size: int, dim: int, normalize: bool = False):
        super().__init__()
        if codebook_size < 2 or dim < 1:
            raise ValueError(f"VQ needs codebook_size from 2 and dim from 1 on, got {codebook_size} and {dim}.")
        self.codebook_size, self.dim, self.normalize = codebook_size, dim, normalize
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size))

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, N, d) -> straight-through codes (B, N, d), indices (B, N, 1), losses."""
        z, codebook = self._scaled(z), self._scaled(self.codebook.float())
        with torch.no_grad():
            indices = nearest_codes(z.flatten(0, 1), codebook).reshape(*z.shape[:2], 1)
        codes = F.embedding(indices.squeeze(-1), codebook)
        if not self.training:
            return codes, indices, {}
        losses = {"codebook": F.mse_loss(codes, z.detach()), "commitment": F.mse_loss(z, codes.detach())}
        return codes.detach() + (z - z.detach()), indices, losses  # straight-through

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, 1) -> codes (B, N, d)."""
        return F.embedding(indices.squeeze(-1), self._scaled(self.codebook.float()))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

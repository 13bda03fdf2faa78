"""SimVQ (Zhu et al., arXiv:2411.02038): a codebook that moves as a whole, since one linear map makes all of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit import Quantizer
from toolkit.quantizers import nearest_codes, straight_through


class SimVQ(Quantizer):
    """Vector quantization whose codes are a learned linear map of frozen random ones (arXiv:2411.02038).

    With a frozen Gaussian codebook C (K, d) and a learned map W (d, d) the codes are the rows of C W^T. A
    step moves W, and so every code, used or not: none is left behind, which is how VQ loses its codebook.
    A latent becomes the nearest code by Euclidean distance. Losses: ``codebook``, the mean squared
    distance of the codes from the (fixed) latents, by whose gradient W learns; ``commitment``, that of the
    latents from the (fixed) codes. An index is its code's row.

    Args:
        codebook_size: K.
        dim: d.
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If K is below 2 or d below 1.

    Example:
        >>> simvq = SimVQ(codebook_size=3, dim=2)
        >>> _ = simvq.codebook.copy_(torch.tensor([[1., 0.], [0., 1.], [-1., 0.]]))
        >>> _ = simvq.map.weight.data.copy_(torch.tensor([[2., 0.], [0., 4.]]))   # codes (2, 0), (0, 4), (-2, 0)
        >>> output = simvq.eval()(torch.tensor([0.5, 3.0]).reshape(1, 2, 1, 1, 1))
        >>> output.indices.item(), output.codes.flatten().tolist()
        (1, [0.0, 4.0])
    """

    loss_weights = {"codebook": 1.0, "commitment": 0.25}

    def __init__(self, *, codebook_size: int, dim: int, rotation_trick: bool = False):
        super().__init__()
        if codebook_size < 2 or dim < 1:
            raise ValueError(f"SimVQ needs codebook_size of at least 2 and dim of at least 1, got {codebook_size} and "
                             f"{dim}.")
        self.codebook_size, self.dim, self.rotation_trick = codebook_size, dim, rotation_trick
        self.register_buffer("codebook", torch.randn(codebook_size, dim) * dim**-0.5)
        self.map = nn.Linear(dim, dim, bias=False)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, N, d) -> codes (B, N, d), indices (B, N, 1), losses."""
        with torch.no_grad():
            nearest = nearest_codes(z.flatten(0, 1), self._mapped(self.codebook))
        indices = nearest.reshape(*z.shape[:2], 1)
        codes = self.lookup(indices)
        if not self.training:
            return codes, indices, {}
        losses = {"codebook": F.mse_loss(codes, z.detach()), "commitment": F.mse_loss(z, codes.detach())}
        return straight_through(z, codes, rotation_trick=self.rotation_trick), indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, 1) -> codes (B, N, d); only these rows go through the map, and into its graph."""
        return self._mapped(F.embedding(indices.squeeze(-1), self.codebook))

    def _mapped(self, vectors: Tensor) -> Tensor:
        """(..., d) rows of the frozen codebook -> (..., d) codes."""
        return F.linear(vectors.float(), self.map.weight.float())

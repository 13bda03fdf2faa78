"""Index backpropagation quantization (Shi et al., arXiv:2412.02692)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toolkit.contracts import Quantizer
from toolkit.layers import mean_over_processes
from toolkit.quantizers.codebook import CHUNK
from toolkit.quantizers.entropy import entropy_of, softmax_sums
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class IBQ(Quantizer):
    """Index backpropagation: the choice of code has a gradient, so that every code learns (arXiv:2412.02692).

    With logits <z, c> over all codes c, p their softmax and i the largest, the codes are (onehot(i) + p - sg p)
    times the codebook: its i-th row in value, and by its gradient the latents and, through them and the row, the
    whole codebook move. Losses: ``quantization``, the mean squared distance of these codes from the latents, both
    with gradients; ``commitment``, that of the latents from the fixed row; ``codebook``, of the row from the fixed
    latents (the three are the paper's double quantization loss); ``per_sample_entropy`` and ``codebook_entropy`` of
    the softmax of logits / temperature, the latter of its average over the batch of all processes.
    An index is its code's row in the codebook; of equal logits the first counts.

    The N * K logits are never held at once: chunks of positions are computed again in the backward pass.

    Args:
        codebook_size: K.
        dim: d.
        temperature: Of the entropies' softmax.

    Raises:
        ValueError: If the codebook is empty or the temperature is not positive.

    Example:
        >>> ibq = IBQ(codebook_size=4, dim=2)
        >>> _ = ibq.codebook.data.copy_(torch.tensor([[0., 0.], [0., 1.], [1., 0.], [1., 1.]]))
        >>> ibq(torch.tensor([0.9, -0.2]).reshape(1, 2, 1, 1, 1)).indices.item()
        2
    """

    loss_weights = {"quantization": 1.0, "commitment": 1.0, "codebook": 0.25, "per_sample_entropy": 0.05,
                    "codebook_entropy": -0.05}

    def __init__(self, *, codebook_size: int, dim: int, temperature: float = 0.01):
        super().__init__()
        if codebook_size < 2 or dim < 1 or temperature <= 0:
            raise ValueError("IBQ needs codebook_size from 2 and dim from 1 on and a positive temperature, got "
                             f"{codebook_size}, {dim} and {temperature}.")
        self.codebook_size, self.dim, self.temperature = codebook_size, dim, temperature
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, N, d) -> codes (B, N, d), indices (B, N, 1), losses."""
        codebook, rows = self.codebook.float(), max(1, CHUNK // self.codebook_size)
        chunks = z.flatten(0, 1).split(rows)
        with torch.no_grad():
            indices = torch.cat([(chunk @ codebook.T).argmax(1) for chunk in chunks]).reshape(*z.shape[:2], 1)
        chosen = self.lookup(indices)
        if not self.training:
            return chosen, indices, {}
        parts = [checkpoint(self._soft, chunk, codebook, use_reentrant=False) for chunk in chunks]
        nothing, entropies, probabilities = zip(*parts, strict=True)
        num = z.shape[0] * z.shape[1]
        codes = chosen + torch.cat(nothing).reshape(z.shape)
        losses = {"quantization": F.mse_loss(codes, z), "commitment": F.mse_loss(z, chosen.detach()),
                  "codebook": F.mse_loss(chosen, z.detach()), "per_sample_entropy": sum(entropies) / num,
                  "codebook_entropy": entropy_of(mean_over_processes(sum(probabilities) / num))}
        return codes, indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, 1) -> codes (B, N, d)."""
        return F.embedding(indices.squeeze(-1), self.codebook).float()

    def _soft(self, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some positions (n, d): (p - sg p) times the codebook, which is zero, and the entropies' sums."""
        logits = z @ codebook.T  # (n, K)
        p = logits.softmax(1)
        return (p - p.detach()) @ codebook.detach(), *softmax_sums(logits / self.temperature)

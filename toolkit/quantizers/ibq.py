"""Index backpropagation quantization (Shi et al., arXiv:2412.02692)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toolkit.contracts import Quantizer
from toolkit.layers import mean_over_processes
from toolkit.quantizers.entropy import entropy
from toolkit.quantizers.vq import CHUNK
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class IBQ(Quantizer):
    """Index backpropagation: gradients go through the argmax, so every code learns (arXiv:2412.02692).

    The logits of a latent z are <z, c> over all codes c. Its index i is the row of the largest logit (of equal ones
    the first). With p = softmax(logits) the code is (onehot(i) + p - sg(p)) @ codebook. Its value is row i. Its
    gradient reaches the latents and all rows through p.

    Losses: ``quantization`` mse(code, z), ``commitment`` mse(z, sg(row)), ``codebook`` mse(row, sg(z)) (together the
    double quantization loss); ``per_sample_entropy`` of softmax(logits / temperature); ``codebook_entropy`` of its mean
    over the batch of all processes. The backward pass recomputes the N * K logits, a chunk at a time.

    Args:
        codebook_size: K, at least 2.
        dim: d.
        temperature: Temperature of the entropies' softmax.

    Raises:
        ValueError: If an argument is out of range.

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
            raise ValueError("IBQ needs codebook_size >= 2, dim >= 1 and temperature > 0, got "
                             f"{codebook_size}, {dim} and {temperature}.")
        self.codebook_size, self.dim, self.temperature = codebook_size, dim, temperature
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * dim**-0.5)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        codebook = self.codebook.float()
        chunks = z.flatten(0, 1).split(max(1, CHUNK // self.codebook_size))
        with torch.no_grad():
            indices = torch.cat([(chunk @ codebook.T).argmax(1) for chunk in chunks]).reshape(*z.shape[:2], 1)
        codebook_rows = self.lookup(indices)
        if not self.training:
            return codebook_rows, indices, {}
        parts = [checkpoint(self._soft_assignment, chunk, codebook, use_reentrant=False) for chunk in chunks]
        zeros, entropies, probabilities = zip(*parts, strict=True)  # the zeros carry the gradient of p
        num_positions = z.shape[0] * z.shape[1]
        codes = codebook_rows + torch.cat(zeros).reshape(z.shape)
        mean_probabilities = mean_over_processes(sum(probabilities) / num_positions)
        losses = {"quantization": F.mse_loss(codes, z), "commitment": F.mse_loss(z, codebook_rows.detach()),
                  "codebook": F.mse_loss(codebook_rows, z.detach()),
                  "per_sample_entropy": sum(entropies) / num_positions,
                  "codebook_entropy": entropy(mean_probabilities)}
        return codes, indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        return F.embedding(indices.squeeze(-1), self.codebook).float()

    def _soft_assignment(self, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (n, d) -> (p - sg(p)) @ codebook (n, d), sum of entropies (), sum of probabilities (K,)."""
        logits = z @ codebook.T  # (n, K)
        p = logits.softmax(1)  # p - sg(p) is 0, so the codebook has a gradient through p only
        log_assignment = (logits / self.temperature).log_softmax(1)
        assignment = log_assignment.exp()
        return (p - p.detach()) @ codebook.detach(), -(assignment * log_assignment).sum(), assignment.sum(0)

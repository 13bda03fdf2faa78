"""Vector quantization (van den Oord et al., arXiv:1711.00937)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Quantizer
from toolkit.layers import gather_over_processes, sum_over_processes
from toolkit.quantizers.codebook import count_and_sum, draw, kmeans, nearest_codes
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS

_EPS = 1e-5  # Laplace smoothing of running counts


@QUANTIZERS.register_module()
class VQ(Quantizer):
    """Vector quantization with a learned codebook: each latent becomes its nearest code (arXiv:1711.00937).

    Losses: ``commitment``, the mean squared distance of the latents from the (fixed) codes; and, with a
    codebook that learns by gradients, ``codebook``, that of the codes from the (fixed) latents. With
    ``normalize`` both sides have unit length and the nearest is that of the smallest angle (ViT-VQGAN,
    arXiv:2110.04627; LlamaGen, arXiv:2406.06525). An index is its code's row in the codebook.

    A codebook of running averages has no gradient: over the batch of all processes, each code's count n and
    sum s of latents move by 1 - decay towards the batch's, and the code is s / n, with n Laplace-smoothed
    (arXiv:1711.00937, appendix A.1). Under gradient accumulation that is once per micro-batch. What replaces
    dead codes, and what k-means starts from, is drawn by the number of batches seen, so that processes agree
    and a resumed run goes on as it would have.

    Args:
        codebook_size: K.
        dim: d.
        normalize: Whether latents and codes are scaled to unit length.
        update: How the codebook learns: "gradient" or "ema".
        decay: Of the running averages.
        kmeans_iters: If positive, the codebook starts as the k-means of the first training batch, after so many
            iterations; codes beyond its number of latents keep their random start.
        revive_below: A code whose running count per batch falls below this share of an even use (N / K) is
            replaced by a latent of the batch; 0: never. Counts start from those of the first batch, no code's
            below an even use.
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If a number is out of range or the update is unknown.

    Example:
        >>> vq = VQ(codebook_size=4, dim=2)
        >>> _ = vq.codebook.data.copy_(torch.tensor([[0., 0.], [0., 1.], [1., 0.], [1., 1.]]))
        >>> vq(torch.tensor([0.9, 0.2]).reshape(1, 2, 1, 1, 1)).indices.item()
        2
    """

    def __init__(self, *, codebook_size: int, dim: int, normalize: bool = False, update: str = "gradient",
                 decay: float = 0.99, kmeans_iters: int = 0, revive_below: float = 0.0, rotation_trick: bool = False):
        super().__init__()
        if codebook_size < 2 or dim < 1:
            raise ValueError(f"VQ needs codebook_size from 2 and dim from 1 on, got {codebook_size} and {dim}.")
        if update not in ("gradient", "ema"):
            raise ValueError(f"VQ takes update 'gradient' or 'ema', got {update!r}.")
        if not 0 <= decay < 1 or kmeans_iters < 0 or not 0 <= revive_below < 1:
            raise ValueError("VQ needs decay and revive_below in [0, 1) and kmeans_iters from 0 on, got "
                             f"{decay}, {revive_below} and {kmeans_iters}.")
        self.codebook_size, self.dim, self.normalize = codebook_size, dim, normalize
        self.update, self.decay, self.kmeans_iters, self.revive_below = update, decay, kmeans_iters, revive_below
        self.rotation_trick = rotation_trick
        self.loss_weights = {"commitment": 0.25} | ({"codebook": 1.0} if update == "gradient" else {})
        codebook = torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        if update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", self._scaled(codebook))
            self.register_buffer("code_sum", self.codebook.clone())
        if update == "ema" or revive_below:
            self.register_buffer("code_count", torch.ones(codebook_size))
        if kmeans_iters or revive_below:
            self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, N, d) -> codes (B, N, d), indices (B, N, 1), losses."""
        z = self._scaled(z)
        flat = z.detach().flatten(0, 1)
        with torch.no_grad():
            learns = self._learns_from(flat)
            if learns and (self.kmeans_iters or self.revive_below) and self.num_batches == 0:
                self._start(flat)
            nearest = nearest_codes(flat, self._scaled(self.codebook.float()))
        indices = nearest.reshape(*z.shape[:2], 1)
        codes = self.lookup(indices)
        if not self.training:
            return codes, indices, {}
        losses = {"commitment": F.mse_loss(z, codes.detach())}
        if self.update == "gradient":
            losses["codebook"] = F.mse_loss(codes, z.detach())
        if learns:
            self._learn(flat, nearest)
        return straight_through(z, codes, rotation_trick=self.rotation_trick), indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, 1) -> codes (B, N, d)."""
        return self._scaled(F.embedding(indices.squeeze(-1), self.codebook).float())

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1, eps=1e-6) if self.normalize else vectors

    def _learns_from(self, z: Tensor) -> bool:
        """Whether a batch changes anything without a gradient; on all processes alike.

        One that is not finite in all of them does not, lest it spoil averages for good: a start waits for the next.
        """
        if not self.training or self.frozen or not (self.update == "ema" or self.kmeans_iters or self.revive_below):
            return False
        return not sum_over_processes((~z.isfinite()).sum())

    def _start(self, z: Tensor) -> None:
        """Start running counts from the first batch, and the codebook's first rows from its clusters if wanted."""
        counts, _ = count_and_sum(z, nearest_codes(z, self._scaled(self.codebook.float())), self.codebook_size)
        even_use = counts.sum() / self.codebook_size
        if self.kmeans_iters:
            means = kmeans(z, self.codebook_size, num_iters=self.kmeans_iters, normalize=self.normalize)
            self.codebook.data[:len(means)] = means.to(self.codebook.dtype)
            counts, _ = count_and_sum(z, nearest_codes(z, means), self.codebook_size)
        if "code_count" in self._buffers:
            self.code_count.copy_(counts.clamp(min=even_use))
        if "code_sum" in self._buffers:
            torch.mul(self.codebook, self.code_count.unsqueeze(1), out=self.code_sum)

    @torch.no_grad()
    def _learn(self, z: Tensor, indices: Tensor) -> None:
        """What changes with a batch without a gradient; on all processes alike."""
        if self.update == "ema" or self.revive_below:
            counts, sums = count_and_sum(z, indices, self.codebook_size)
            self.code_count.lerp_(counts.to(self.code_count.dtype), 1 - self.decay)
            if self.update == "ema":
                self.code_sum.lerp_(sums.to(self.code_sum.dtype), 1 - self.decay)
                total = self.code_count.sum()
                smoothed = (self.code_count + _EPS) / (total + self.codebook_size * _EPS) * total
                self.codebook.copy_(self._scaled(self.code_sum / smoothed.unsqueeze(1)))
            if self.revive_below:
                self._revive(z, even_use=counts.sum().item() / self.codebook_size)
        if self.kmeans_iters or self.revive_below:
            self.num_batches += 1

    def _revive(self, z: Tensor, even_use: float) -> None:
        """Replace dead codes by latents of the batch, as many as it has, with the count of an even use."""
        dead = (self.code_count < self.revive_below * even_use).nonzero().flatten()
        if len(dead):
            latents = draw(gather_over_processes(z), len(dead), seed=int(self.num_batches)).to(self.codebook.dtype)
            rows = dead[:len(latents)]
            self.codebook.data[rows], self.code_count[rows] = latents, even_use
            if self.update == "ema":
                self.code_sum[rows] = latents * even_use

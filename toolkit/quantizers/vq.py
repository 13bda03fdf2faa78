"""Vector quantization (van den Oord et al., arXiv:1711.00937), and k-means for learned codebooks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Quantizer
from toolkit.layers.distributed import any_process, from_first_process, gather_over_processes, sum_over_processes
from toolkit.quantizers.straight_through import straight_through, unit_length
from toolkit.registry import QUANTIZERS

CHUNK = 2**24  # similarities computed at once, 64 MiB
_EPS = 1e-5  # Laplace smoothing of running counts


def nearest_codes(z: Tensor, codebook: Tensor) -> Tensor:
    """Vectors (N, d), codes (K, d) -> index (N,) int64 of the nearest code; of equally near codes the first.

    Example:
        >>> nearest_codes(torch.tensor([[0.1], [0.9]]), torch.tensor([[0.0], [1.0], [2.0]])).tolist()
        [0, 1]
    """
    # In chunks: all N * K distances at once may not fit into memory.
    bias = codebook.square().sum(1) / 2  # argmin |z - c|^2 = argmin |c|^2 / 2 - <z, c>
    chunks = z.split(max(1, CHUNK // len(codebook)))
    return torch.cat([torch.addmm(bias, chunk, codebook.T, alpha=-1).argmin(1) for chunk in chunks])


def count_and_sum(z: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Vectors (N, d) and their indices (N,) -> number (K,) and sum (K, d) of each code's vectors on all processes."""
    counts = torch.bincount(indices, minlength=codebook_size).to(z.dtype)
    sums = z.new_zeros(codebook_size, z.shape[1]).index_add_(0, indices, z)
    return sum_over_processes(counts), sum_over_processes(sums)


def random_rows(z: Tensor, num: int, *, seed: int) -> Tensor:
    """min(num, N) rows of z (N, d), drawn without replacement; their positions depend on N and the seed alone."""
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:num]
    return z[order.to(z.device)]


@torch.no_grad()
def kmeans(z: Tensor, codebook_size: int, *, num_iters: int, normalize: bool = False, seed: int = 0) -> Tensor:
    """Lloyd's algorithm on each process's vectors (n, d), N in all -> (min(K, N), d) means, the same on every process.

    It starts from random vectors. An empty cluster keeps its mean. ``normalize`` scales means to unit length.
    """
    means = random_rows(gather_over_processes(z), codebook_size, seed=seed)
    for _ in range(num_iters):
        counts, sums = count_and_sum(z, nearest_codes(z, means), len(means))
        new_means = sums / counts.clamp(min=1).unsqueeze(1)
        means = torch.where(counts.unsqueeze(1) > 0, F.normalize(new_means, dim=1) if normalize else new_means, means)
    return from_first_process(means)  # rounding may differ between devices


@QUANTIZERS.register_module()
class VQ(Quantizer):
    """Vector quantization with a learned codebook: each latent becomes its nearest code (arXiv:1711.00937).

    Losses: ``commitment``, mse(z, sg(code)); with ``update="gradient"`` also ``codebook``, mse(code, sg(z)).
    An index is the row of its code in the codebook.

    With ``update="ema"`` the codebook has no gradient. Each code has a running count n and a running sum s of its
    latents, moving averages over the batches of all processes. The code is s / n, with n Laplace-smoothed
    (arXiv:1711.00937, appendix A.1). With gradient accumulation each micro-batch is such a batch.

    K-means and the replacement of dead codes draw latents with the number of batches so far as seed, not by torch's
    generator: all processes draw the same, and so does a resumed run. They and the running averages need train mode,
    ``frozen`` False (see :class:`Quantizer`) and a batch of finite latents.

    Args:
        codebook_size: K, at least 2.
        dim: d.
        normalize: Scale latents and codes to unit length (ViT-VQGAN, arXiv:2110.04627; LlamaGen, arXiv:2406.06525).
        update: "gradient" or "ema".
        decay: Decay of the running counts and sums, in [0, 1).
        kmeans_iters: k-means iterations on the first training batch, to initialise the codebook; 0: none. Codes beyond
            the batch's number of latents stay random.
        revive_below: A code with a running count below this share of N / K is dead: a latent of the batch replaces it.
            0: none. N is the latents of all processes. Counts start at the first batch's, raised to N / K where lower.
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If a number is out of range or ``update`` is unknown.

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
            raise ValueError(f"VQ needs codebook_size >= 2 and dim >= 1, got {codebook_size} and {dim}.")
        if update not in ("gradient", "ema"):
            raise ValueError(f"VQ needs update 'gradient' or 'ema', got {update!r}.")
        if not 0 <= decay < 1 or kmeans_iters < 0 or not 0 <= revive_below < 1:
            raise ValueError("VQ needs decay and revive_below in [0, 1) and kmeans_iters >= 0, got "
                             f"{decay}, {revive_below} and {kmeans_iters}.")
        self.codebook_size, self.dim, self.normalize = codebook_size, dim, normalize
        self.update, self.decay, self.kmeans_iters, self.revive_below = update, decay, kmeans_iters, revive_below
        self.rotation_trick = rotation_trick
        self.loss_weights = {"commitment": 0.25} | ({"codebook": 1.0} if update == "gradient" else {})
        codebook = torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        if update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", self._normalized(codebook))
            self.register_buffer("code_sum", self.codebook.clone())
        self.has_code_count = update == "ema" or revive_below > 0
        if self.has_code_count:
            self.register_buffer("code_count", torch.ones(codebook_size))
        self.has_num_batches = kmeans_iters > 0 or revive_below > 0
        if self.has_num_batches:
            self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z = unit_length(z) if self.normalize else z
        flat = z.detach().flatten(0, 1)
        learns = self._learns_from(flat)
        if learns and self.has_num_batches and self.num_batches == 0:
            self._initialize(flat)
        with torch.no_grad():
            nearest = nearest_codes(flat, self._normalized(self.codebook.float()))
        indices = nearest.reshape(*z.shape[:2], 1)
        codes = self.lookup(indices)
        if not self.training:
            return codes, indices, {}
        losses = {"commitment": F.mse_loss(z, codes.detach())}
        if self.update == "gradient":
            losses["codebook"] = F.mse_loss(codes, z.detach())
        if learns:
            self._update_statistics(flat, nearest)
        return straight_through(z, codes, rotation_trick=self.rotation_trick), indices, losses

    def lookup(self, indices: Tensor) -> Tensor:
        return self._normalized(F.embedding(indices.squeeze(-1), self.codebook).float())

    def _normalized(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1, eps=1e-6) if self.normalize else vectors

    def _learns_from(self, z: Tensor) -> bool:
        """Whether z (N, d) updates codebook or statistics. If one process has NaN or infinity, no process updates."""
        if not self.training or self.frozen or not (self.has_code_count or self.has_num_batches):
            return False
        return not any_process(not z.isfinite().all())

    @torch.no_grad()
    def _initialize(self, z: Tensor) -> None:
        """Initialise the codebook (with ``kmeans_iters``) and the running counts and sums from the first batch."""
        codes = self._normalized(self.codebook.float())
        if self.kmeans_iters:
            codes = kmeans(z, self.codebook_size, num_iters=self.kmeans_iters, normalize=self.normalize)
            self.codebook.data[:len(codes)] = codes.to(self.codebook.dtype)
        if self.has_code_count:
            counts, _ = count_and_sum(z, nearest_codes(z, codes), self.codebook_size)
            self.code_count.copy_(counts.clamp(min=counts.sum() / self.codebook_size))
        if self.update == "ema":
            torch.mul(self.codebook, self.code_count.unsqueeze(1), out=self.code_sum)

    @torch.no_grad()
    def _update_statistics(self, z: Tensor, indices: Tensor) -> None:
        """Update counts, sums, codes and ``num_batches`` from latents (N, d) and indices (N,); replace dead codes."""
        if self.has_code_count:
            counts, sums = count_and_sum(z, indices, self.codebook_size)
            self.code_count.lerp_(counts.to(self.code_count.dtype), 1 - self.decay)
            if self.update == "ema":
                self.code_sum.lerp_(sums.to(self.code_sum.dtype), 1 - self.decay)
                total = self.code_count.sum()
                smoothed = (self.code_count + _EPS) / (total + self.codebook_size * _EPS) * total
                self.codebook.copy_(self._normalized(self.code_sum / smoothed.unsqueeze(1)))
            if self.revive_below:
                self._replace_dead_codes(z, mean_count=counts.sum().item() / self.codebook_size)
        if self.has_num_batches:
            self.num_batches += 1

    def _replace_dead_codes(self, z: Tensor, mean_count: float) -> None:
        """Replace dead codes by latents of the batch, as far as these last; the new codes' count is ``mean_count``."""
        dead = (self.code_count < self.revive_below * mean_count).nonzero().flatten()
        if len(dead):
            latents = random_rows(gather_over_processes(z), len(dead), seed=int(self.num_batches))
            latents = latents.to(self.codebook.dtype)
            rows = dead[:len(latents)]
            self.codebook.data[rows], self.code_count[rows] = latents, mean_count
            if self.update == "ema":
                self.code_sum[rows] = latents * mean_count

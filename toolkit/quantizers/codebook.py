"""Learned codebooks: nearest codes, and counts and k-means over the batch of all processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.layers import from_first_process, gather_over_processes, sum_over_processes

CHUNK = 2**24  # similarities computed at once, 64 MiB


def nearest_codes(z: Tensor, codebook: Tensor) -> Tensor:
    """Vectors (N, d), codes (K, d) -> index (N,) int64 of the nearest code; of equally near codes the first.

    Example:
        >>> nearest_codes(torch.tensor([[0.1], [0.9]]), torch.tensor([[0.0], [1.0], [2.0]])).tolist()
        [0, 1]
    """
    # In chunks: all N * K distances at once may not fit into memory.
    bias = codebook.square().sum(1) / 2  # |z - c|^2 / 2 without |z|^2 / 2, which is the same for all codes
    chunks = z.split(max(1, CHUNK // len(codebook)))
    return torch.cat([torch.addmm(bias, chunk, codebook.T, alpha=-1).argmin(1) for chunk in chunks])


def count_and_sum(z: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Vectors (N, d) and their codes (N,) -> number (K,) and sum (K, d) of each code's vectors on all processes."""
    counts = torch.bincount(indices, minlength=codebook_size).to(z.dtype)
    sums = z.new_zeros(codebook_size, z.shape[1]).index_add_(0, indices, z)
    return sum_over_processes(counts), sum_over_processes(sums)


def random_rows(z: Tensor, num: int, *, seed: int) -> Tensor:
    """``num`` different rows of z (N, d), or all of them if N is less; they depend on the seed alone."""
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:num]
    return z[order.to(z.device)]


@torch.no_grad()
def kmeans(z: Tensor, codebook_size: int, *, num_iters: int, normalize: bool = False, seed: int = 0) -> Tensor:
    """Lloyd's algorithm on the vectors (N, d) of all processes -> (min(K, N), d) means, the same on every process.

    It starts from random vectors. An empty cluster keeps its mean. ``normalize`` scales means to unit length.
    """
    means = random_rows(gather_over_processes(z), codebook_size, seed=seed)
    for _ in range(num_iters):
        counts, sums = count_and_sum(z, nearest_codes(z, means), len(means))
        new_means = sums / counts.clamp(min=1).unsqueeze(1)
        means = torch.where(counts.unsqueeze(1) > 0, F.normalize(new_means, dim=1) if normalize else new_means, means)
    return from_first_process(means)  # rounding differs between processors

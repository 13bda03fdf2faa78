"""Learned codebooks: the nearest code, and counts and k-means over the joined batch of all processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.layers import from_first_process, gather_over_processes, sum_over_processes

CHUNK = 2**24  # similarities held at a time, 64 MiB


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
    chunks = z.split(max(1, CHUNK // len(codebook)))
    return torch.cat([torch.addmm(bias, chunk, codebook.T, alpha=-1).argmin(1) for chunk in chunks])


def count_and_sum(z: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """How many vectors of all processes fell to each code, and their sum.

    Args:
        z: (N, d) of this process.
        indices: (N,) int64 in [0, K).
        codebook_size: K.

    Returns:
        counts (K,), sums (K, d), float32.

    Example:
        >>> counts, sums = count_and_sum(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
        >>> counts.tolist(), sums.flatten().tolist()
        ([2.0, 0.0, 1.0], [3.0, 0.0, 5.0])
    """
    counts = torch.bincount(indices, minlength=codebook_size).to(z.dtype)
    sums = z.new_zeros(codebook_size, z.shape[1]).index_add_(0, indices, z)
    return sum_over_processes(counts), sum_over_processes(sums)


def draw(z: Tensor, num: int, *, seed: int) -> Tensor:
    """``num`` different rows of z (N, d), or all of them, in an order that depends on the seed alone.

    Example:
        >>> draw(torch.arange(4.0).unsqueeze(1), 9, seed=0).flatten().sort().values.tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:num]
    return z[order.to(z.device)]


@torch.no_grad()
def kmeans(z: Tensor, codebook_size: int, *, num_iters: int, normalize: bool = False, seed: int = 0) -> Tensor:
    """Lloyd's algorithm on the vectors of all processes, from as many of them as there are clusters.

    Args:
        z: (N, d) of this process.
        codebook_size: K; fewer vectors than that are clusters of their own.
        num_iters: How often clusters and their means are found anew.
        normalize: Whether means are scaled to unit length (spherical k-means, for vectors that have it too).
        seed: Of the vectors it starts from.

    Returns:
        (min(K, N), d) means, the same on every process; a cluster that is left empty keeps its last mean.

    Example:
        >>> z = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
        >>> [round(x, 1) for x in kmeans(z, 2, num_iters=5).flatten().sort().values.tolist()]
        [0.1, 5.1]
    """
    z = gather_over_processes(z)
    means = draw(z, codebook_size, seed=seed)
    for _ in range(num_iters):
        indices = nearest_codes(z, means)
        counts = torch.bincount(indices, minlength=len(means)).to(z.dtype).unsqueeze(1)
        found = torch.zeros_like(means).index_add_(0, indices, z) / counts.clamp(min=1)
        means = torch.where(counts > 0, F.normalize(found, dim=1) if normalize else found, means)
    return from_first_process(means)  # lest another processor's rounding makes another codebook

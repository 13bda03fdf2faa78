"""Nearest codes, counts and k-means against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.quantizers import codebook
from toolkit.quantizers.codebook import count_and_sum, kmeans, nearest_codes, random_rows


@pytest.mark.parametrize("chunk", [1, 64, 2**24])
def test_nearest_code_is_that_of_the_full_distances_whatever_the_chunk(monkeypatch, chunk):
    monkeypatch.setattr(codebook, "CHUNK", chunk)
    z, codes = torch.randn(50, 6), torch.randn(17, 6)
    assert torch.equal(nearest_codes(z, codes), torch.cdist(z, codes).argmin(1))


def test_of_equally_near_codes_the_first_is_chosen():
    assert nearest_codes(torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist() == [0]


def test_counts_and_sums_are_those_of_a_one_hot_matrix():
    z, indices = torch.randn(40, 3), torch.randint(0, 7, (40,))
    one_hot = torch.nn.functional.one_hot(indices, 9).float()
    counts, sums = count_and_sum(z, indices, 9)
    torch.testing.assert_close(counts, one_hot.sum(0))
    torch.testing.assert_close(sums, one_hot.T @ z)


def test_random_rows_are_different_and_depend_only_on_the_seed():
    z = torch.arange(100.0).unsqueeze(1)
    first = random_rows(z, 30, seed=1)
    torch.randn(5)  # the global stream does not matter
    assert torch.equal(first, random_rows(z, 30, seed=1)) and not torch.equal(first, random_rows(z, 30, seed=2))
    assert len(first.unique()) == 30 and len(random_rows(z, 500, seed=0)) == 100


def lloyd(z: np.ndarray, means: np.ndarray, num_iters: int, normalize: bool) -> np.ndarray:
    """The algorithm in float64, cluster by cluster."""
    for _ in range(num_iters):
        nearest = ((z[:, None] - means[None]) ** 2).sum(-1).argmin(1)
        for k in set(nearest):
            mean = z[nearest == k].mean(0)
            means[k] = mean / np.linalg.norm(mean) if normalize else mean
    return means


@pytest.mark.parametrize("normalize", [False, True])
def test_kmeans_is_lloyds_algorithm(normalize):
    z = torch.randn(200, 4)
    z = torch.nn.functional.normalize(z, dim=1) if normalize else z
    actual = kmeans(z, 12, num_iters=6, normalize=normalize, seed=3)
    start = random_rows(z, 12, seed=3).double().numpy()
    expected = lloyd(z.double().numpy(), start, 6, normalize)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_fewer_vectors_than_clusters_are_the_means():
    z = torch.randn(5, 3)
    means = kmeans(z, 8, num_iters=4)
    assert means.shape == (5, 3)
    torch.testing.assert_close(means[nearest_codes(z, means)], z)

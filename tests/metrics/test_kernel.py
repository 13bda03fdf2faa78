"""Kernel distances, against torch-fidelity, torchmetrics and closed forms."""

import math

import numpy as np
import pytest
import torch
from pooled import FewThumbnails, Thumbnails, features, pair, part_of
from torch_fidelity.metric_kid import kernel_poly, kid_features_to_metric, mmd2
from torchmetrics.image.kid import poly_mmd

from toolkit.evaluation.intervals import merge
from toolkit.metrics import InceptionDistances, VideoDistances, kernel_distance

POLY = dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)


def sets(count: int = 60, dim: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    first = torch.randn(count, dim)
    return first, 0.9 * first + 0.3 * torch.randn(count, dim) + 0.1


def test_distance_is_torch_fidelitys_u_statistic_without_the_pairs_of_a_sample_with_itself():
    """Which torch-fidelity's and torchmetrics' estimators have."""
    first, second = (x.double() for x in sets())
    count = len(first)
    kernels = [kernel_poly(a.numpy(), b.numpy(), **POLY)
               for a, b in ((first, first), (first, second), (second, second))]
    assert kernel_distance(first, second) == pytest.approx(mmd2(*kernels, mmd_est="u-statistic"), rel=1e-10)
    crossed = kernels[1]
    itself = 2 * crossed.sum() / count**2 - 2 * (crossed.sum() - np.trace(crossed)) / (count * (count - 1))
    theirs = kid_features_to_metric(first, second, kid_subsets=1, kid_subset_size=count, verbose=False, **POLY)
    expected = theirs["kernel_inception_distance_mean"] + itself
    assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(first, second) == pytest.approx(poly_mmd(first, second).item() + itself, rel=1e-10)


def test_over_independent_sets_it_is_torch_fidelitys_number():
    first, second = torch.randn(500, 20), 1.2 * torch.randn(500, 20) + 0.3
    theirs = kid_features_to_metric(first.double(), second.double(), kid_subsets=1, kid_subset_size=500,
                                    verbose=False, **POLY)["kernel_inception_distance_mean"]
    assert kernel_distance(first, second) == pytest.approx(theirs, rel=5e-3)


def test_equal_sets_have_distance_0_and_samples_of_one_distribution_about_0():
    first, _ = sets()
    assert abs(kernel_distance(first, first.clone())) < 1e-12
    found = [kernel_distance(*torch.randn(2, 50, 10)) for _ in range(200)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error and min(found) < 0 < max(found)


def test_values_that_are_not_finite_give_nan_and_other_shapes_are_refused():
    assert math.isnan(kernel_distance(torch.tensor([[math.nan], [1.0]]), torch.zeros(2, 1)))
    for shapes in (((1, 3), (1, 3)), ((4, 3), (5, 3)), ((4,), (4,))):
        with pytest.raises(ValueError, match=r"two sets \(N, D\) of equal size"):
            kernel_distance(*map(torch.zeros, shapes))


# the metrics


def test_metric_is_the_distance_of_its_features_whatever_the_batches_and_blocks():
    batch = pair(10, 3, 6, 8, 8)
    blocks = [Thumbnails() for _ in range(4)]
    for block, part in zip(blocks, (slice(4, 10), slice(0, 1), slice(1, 1), slice(1, 4)), strict=True):
        block.update(**part_of(batch, part))
    whole = Thumbnails()
    whole.update(**batch)
    expected = kernel_distance(*features(whole, batch))
    assert whole.compute()["kernel"] == pytest.approx(expected, rel=1e-10)
    for _ in range(2):  # the second time from what was kept
        assert merge(blocks).compute()["kernel"] == pytest.approx(expected, rel=1e-10)
    for some in (blocks, blocks[::-1]):
        assert merge(some).compute() == pytest.approx(whole.compute(), rel=1e-9)


def test_beyond_the_kept_features_it_is_the_distance_of_a_sample_of_each_block():
    batches, blocks = [pair(9, 3, 1, 8, 8, seed=seed) for seed in range(2)], [FewThumbnails(), FewThumbnails()]
    for block, batch in zip(blocks, batches, strict=True):
        block.update(**batch)
    stay = [torch.cat([block._blocks[0].target.features for block in blocks]),
            torch.cat([block._blocks[0].reconstruction.features for block in blocks])]
    first, second = (torch.cat(x) for x in zip(*(features(blocks[0], batch) for batch in batches), strict=True))
    assert stay[0].shape == (10, 48)
    for one, other in zip(*stay, strict=True):  # and each with its own reconstruction
        (row,) = (first == one).all(1).nonzero()[:, 0]
        assert torch.equal(second[row], other)
    assert merge(blocks).compute()["kernel"] == pytest.approx(kernel_distance(*stay), rel=1e-10)


def test_an_update_after_computing_counts():
    first, second = (pair(4, 3, 1, 8, 8, seed=seed) for seed in range(2))
    metric, expected = Thumbnails(), Thumbnails()
    metric.update(**first)
    metric.compute()
    metric.update(**second)
    expected.update(**{name: torch.cat([first[name], second[name]]) for name in first})
    assert metric.compute() == pytest.approx(expected.compute(), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "frames"), [(InceptionDistances, 1), (VideoDistances, 10)])
def test_one_pass_serves_both_distances(kind, frames):
    distances, batch = kind(), pair(3, 3, frames, 32, 32)
    distances.update(**batch)
    frechet = kind.__mro__[2]()
    frechet.update(**batch)
    found = distances.compute()
    assert found[distances.name] == frechet.compute()[frechet.name]
    assert found[distances.kernel_name] == pytest.approx(kernel_distance(*features(distances, batch)), rel=1e-6)

"""Samples of features, and targets with stored features."""

import numpy as np
import pytest
import torch
from pooled import FewThumbnails, Thumbnails, pair, part_of
from safetensors.torch import load, save

from toolkit.evaluation.intervals import merge
from toolkit.metrics.features import FeatureSet, add_products, gaussian, pixel_keys


def scores(metric, *batches) -> dict[str, float]:
    for batch in batches:
        metric.update(**batch)
    return metric.compute()


# sets


def filled(vectors: torch.Tensor, keys: torch.Tensor, sizes: list[int], *, asked: bool = False) -> FeatureSet:
    """A set of which six vectors stay, after additions of these sizes."""
    features = FeatureSet(3, kept=6)
    for part, some in zip(vectors.split(sizes), keys.split(sizes), strict=True):
        features = features.plus(part, some)
        held = sum(len(chunk) for chunk, _ in features._chunks), sum(map(len, features._not_in_sums))
        assert max(held) <= 2 * 6  # memory does not grow with the number of samples
        if asked:
            features.sums(), features.features
    return features


def test_the_same_sample_stays_whatever_the_order_and_the_batches():
    vectors, keys = torch.randn(40, 3), torch.randint(-2**63, 2**63 - 1, (40,))
    expected = vectors[keys.argsort()[:6]]
    for order, sizes in ((torch.arange(40), [40]), (torch.randperm(40), [1, 20, 19]), (torch.randperm(40), [5] * 8)):
        features = filled(vectors[order], keys[order], sizes)
        assert torch.equal(features.features, expected) and len(features.features) == 6
        assert not features.complete and features.count == 40


@pytest.mark.parametrize("asked", [False, True])
def test_sums_are_of_all_samples_and_not_of_the_kept_ones(asked):
    vectors = torch.randn(40, 3)
    features = filled(vectors, torch.randint(1000, (40,)), [3] * 13 + [1], asked=asked)
    mean, cov = gaussian(features.sums())
    assert torch.allclose(mean, vectors.double().mean(0)) and torch.allclose(cov, torch.cov(vectors.double().T))


def test_sums_give_numpys_covariance_however_they_were_added():
    features, sums = torch.randn(100, 7) + 1000 * torch.randn(7), torch.zeros((), dtype=torch.float64)
    for part in features.split([1, 40, 0, 59]):
        sums = add_products(sums, part)
    mean, cov = gaussian(sums)
    np.testing.assert_allclose(mean, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(features.double().T, ddof=1), rtol=1e-7)


def test_keys_are_of_pixels_as_a_file_holds_them():
    frames = torch.randint(256, (3, 3, 8, 8)) / 127.5 - 1
    keys = pixel_keys(frames)
    assert len(set(keys.tolist())) == 3 and keys.dtype == torch.long
    assert torch.equal(pixel_keys(frames + 0.3 / 127.5), keys)
    assert torch.equal(pixel_keys(frames[[2, 0]]), keys[[2, 0]])


@pytest.mark.parametrize("count", [4, 9])
def test_additions_leave_the_set_they_are_made_to(count):
    features = filled(torch.randn(count, 3), torch.arange(count), [count])
    sums, before = features.sums().clone(), {name: tensor.clone() for name, tensor in features.state().items()}
    other = features.plus(torch.randn(9, 3), torch.arange(9))
    assert other.count == count + 9 and not torch.equal(other.sums(), sums)
    assert torch.equal(features.sums(), sums)
    assert all(torch.equal(tensor, before[name]) for name, tensor in features.state().items())


# targets that are known


@pytest.mark.parametrize("kind", [Thumbnails, FewThumbnails])
def test_known_targets_give_the_same_scores_without_the_network(kind):
    batches = [pair(3, 3, 5, 8, 8, seed=seed) for seed in range(4)]
    first, second = kind(), kind()
    expected = scores(first, *batches)
    state = load(save(first.target_state()))  # as a file holds it
    second.load_target_state(state)
    seen, network = [], second.network
    second.network = lambda samples: seen.append(len(samples)) or network(samples)
    actual = scores(second, *(part_of(batch, [2, 0, 1]) for batch in reversed(batches)))  # another order
    assert actual == pytest.approx(expected, rel=1e-9) and sum(seen) == second.num_samples() == 60
    assert {name: tensor.tolist() for name, tensor in second.target_state().items()} == {
        name: tensor.tolist() for name, tensor in state.items()}


def test_targets_other_than_the_stored_ones_are_refused():
    known, batch = Thumbnails(), pair(4, 3, 1, 8, 8)
    scores(known, batch)
    for other in (part_of(batch, slice(3)), pair(4, 3, 1, 8, 8, seed=1)):
        metric = Thumbnails()
        metric.load_target_state(known.target_state())
        metric.update(**other)
        with pytest.raises(ValueError, match=rf"Thumbnails got {len(other['target'])} reconstructions of other targets "
                                             "than the 4 whose features were loaded"):
            metric.compute()
        metric.reset()
        assert scores(metric, batch) == pytest.approx(known.compute())


def test_states_of_other_features_and_late_loading_are_refused():
    metric, batch = Thumbnails(), pair(2, 3, 1, 8, 8)
    metric.update(**batch)
    state = metric.target_state()
    with pytest.raises(ValueError, match="without samples"):
        metric.load_target_state(state)
    with pytest.raises(ValueError, match="48 features of each sample"):
        Thumbnails().load_target_state(state | {"features": state["features"][:, :5]})
    with pytest.raises(ValueError, match="merged from 2"):
        merge([metric, Thumbnails()]).target_state()


# merging


@pytest.mark.parametrize("kind", [Thumbnails, FewThumbnails])
def test_blocks_with_known_targets_merge_as_others(kind):
    batches = [pair(2, 3, 4, 8, 8, seed=seed) for seed in range(3)]
    blocks, again = [kind() for _ in batches], [kind() for _ in batches]
    for block, batch in zip(blocks, batches, strict=True):
        block.update(**batch)
    for block, other, batch in zip(blocks, again, batches, strict=True):
        other.load_target_state(block.target_state())
        other.update(**batch)
    assert merge(again).compute() == pytest.approx(merge(blocks).compute(), rel=1e-9)


def test_merging_changes_neither_side_even_where_only_a_sample_stays():
    blocks = [FewThumbnails() for _ in range(3)]
    for seed, block in enumerate(blocks):
        block.update(**pair(9, 3, 1, 8, 8, seed=seed))
    alone = [block.compute() for block in blocks]
    merged = merge(blocks)
    expected = merged.compute()
    again = merge(blocks)
    merged.update(**pair(9, 3, 1, 8, 8, seed=7))
    assert merged.num_samples() == 36 and merged.compute() != expected
    assert again.compute() == expected and [block.compute() for block in blocks] == alone


def test_a_metric_merged_twice_counts_twice():
    metric, twice, batch = Thumbnails(), Thumbnails(), pair(9, 3, 1, 8, 8)
    metric.update(**batch)
    assert merge([metric, metric]).compute() == pytest.approx(scores(twice, batch, batch), rel=1e-9)

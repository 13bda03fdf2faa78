"""Codebook use, against closed forms."""

import math

import pytest
import torch

from toolkit.metrics import Codebook


def score(indices: torch.Tensor, *, pixels: tuple[int, ...] = (1, 3, 1, 8, 8), **options) -> dict[str, float]:
    codebook, clip = Codebook(**options), torch.zeros(pixels)
    codebook.update(target=clip, reconstruction=clip, indices=indices)
    return codebook.compute()


def test_even_use_of_every_entry_reaches_all_bounds():
    scores = score(torch.arange(16).reshape(1, 1, 4, 4, 1), codebook_size=16)
    assert scores == pytest.approx({
        "codebook_usage": 1, "codebook_perplexity": 16, "codebook_entropy": math.log(16),
        "codebook_entropy_bound": math.log(16), "bits_per_pixel": 16 * 4 / 64})


def test_uneven_use_has_the_entropy_of_its_frequencies():
    scores = score(torch.tensor([7, 7, 7, 1]).reshape(1, 1, 2, 2, 1), codebook_size=8)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert scores["codebook_entropy"] == pytest.approx(entropy)
    assert scores["codebook_perplexity"] == pytest.approx(math.exp(entropy))
    assert scores["codebook_usage"] == 2 / 8
    assert scores["codebook_entropy_bound"] == pytest.approx(math.log(4))  # four samples, not eight entries


def test_a_collapsed_codebook_has_entropy_zero_and_perplexity_one():
    scores = score(torch.full((2, 1, 2, 2, 1), 3), codebook_size=8)
    assert scores["codebook_entropy"] == 0 and scores["codebook_perplexity"] == 1


def test_codebooks_of_one_quantizer_are_averaged():
    even, constant = torch.arange(4), torch.zeros(4, dtype=torch.long)
    scores = score(torch.stack([even, constant], -1).reshape(1, 1, 2, 2, 2), codebook_size=4, num_codebooks=2)
    assert scores == pytest.approx({
        "codebook_usage": (1 + 1 / 4) / 2, "codebook_perplexity": (4 + 1) / 2,
        "codebook_entropy": math.log(4) / 2, "codebook_entropy_bound": math.log(4),
        "bits_per_pixel": 4 * 2 * 2 / 64})


def test_positions_need_not_be_a_grid():
    assert score(torch.arange(5).reshape(1, 5, 1), codebook_size=32)["codebook_usage"] == 5 / 32


def test_updates_add_up_to_one_of_their_union():
    indices = torch.randint(0, 1000, (6, 1, 4, 4, 1), generator=torch.Generator().manual_seed(0))
    clip = torch.zeros(2, 3, 1, 8, 8)
    codebook = Codebook(codebook_size=1000)
    for part in indices.split(2):
        codebook.update(target=clip, reconstruction=clip, indices=part)
        codebook.compute()  # asking in between changes nothing
    assert codebook.compute() == pytest.approx(score(indices, pixels=(6, 3, 1, 8, 8), codebook_size=1000))


def test_a_codebook_of_2_to_the_30_is_counted_exactly_over_many_updates():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(0, 2**30, (1, 1, 100, 300, 1), generator=generator) for _ in range(8)]  # 240,000
    codebook, clip = Codebook(codebook_size=2**30), torch.zeros(1, 3, 1, 8, 8)
    for part in parts:
        codebook.update(target=clip, reconstruction=clip, indices=part)
    _, counts = torch.cat(parts).unique(return_counts=True)
    p = counts.double() / counts.sum()
    scores = codebook.compute()
    assert scores["codebook_usage"] == len(counts) / 2**30
    assert scores["codebook_entropy"] == pytest.approx(float(-(p * p.log()).sum()))
    assert scores["codebook_entropy_bound"] == pytest.approx(math.log(240_000))


def test_reset_forgets():
    codebook, clip = Codebook(codebook_size=4), torch.zeros(1, 3, 1, 2, 2)
    codebook.update(target=clip, reconstruction=clip, indices=torch.zeros(1, 1, 1, 1, 1, dtype=torch.long))
    codebook.reset()
    with pytest.raises(ValueError, match="no indices"):
        codebook.compute()


@pytest.mark.parametrize(("indices", "message"), [
    (None, "continuous"), (torch.zeros(1, 1, 1, 1, 2, dtype=torch.long), "num_codebooks"),
    (torch.full((1, 1, 1, 1, 1), 4), "codebook_size"), (torch.full((1, 1, 1, 1, 1), -1), "codebook_size")])
def test_indices_that_cannot_be_its_own_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        score(indices, codebook_size=4)


def test_a_continuous_bottleneck_is_refused():
    with pytest.raises(ValueError, match="continuous"):
        Codebook(codebook_size=0)


def test_every_score_says_which_way_is_better():
    scores = score(torch.zeros(1, 1, 1, 1, 1, dtype=torch.long), codebook_size=4)
    assert scores.keys() == Codebook.higher_is_better.keys()

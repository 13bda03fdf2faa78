"""Codebook use, against closed forms."""

import math

import numpy as np
import pytest
import torch

from toolkit.metrics import Codebook, collapse_of

PIXEL = torch.zeros(1, 3, 1, 4, 4)


def score(indices: torch.Tensor, *, pixels: tuple[int, ...] = (1, 3, 1, 8, 8), **options) -> dict[str, float]:
    codebook, clip = Codebook(**options), torch.zeros(pixels)
    codebook.update(target=clip, reconstruction=clip, indices=indices)
    return codebook.compute()


def test_even_use_of_every_entry_reaches_all_bounds():
    scores = score(torch.arange(16).reshape(1, 1, 4, 4, 1), codebook_size=16)
    assert scores == pytest.approx({
        "codebook_usage": 1, "codebook_dead": 0, "codebook_perplexity": 16, "codebook_entropy": math.log(16),
        "codebook_entropy_min": math.log(16),
        "codebook_entropy_bound": math.log(16), "codebook_digit_entropy": 1, "bits_per_pixel": 16 * 4 / 64})


def test_uneven_use_has_the_entropy_of_its_frequencies():
    scores = score(torch.tensor([7, 7, 7, 1]).reshape(1, 1, 2, 2, 1), codebook_size=8)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert scores["codebook_entropy"] == pytest.approx(entropy)
    assert scores["codebook_perplexity"] == pytest.approx(math.exp(entropy))
    assert scores["codebook_usage"] == 2 / 8
    assert scores["codebook_entropy_bound"] == pytest.approx(math.log(4))  # four samples, not eight entries


def test_a_collapsed_codebook_has_entropy_zero_and_perplexity_one():
    scores = score(torch.full((2, 5, 1), 3), codebook_size=8)  # positions need not be a grid
    assert scores["codebook_entropy"] == 0 and scores["codebook_perplexity"] == 1
    assert scores.keys() == Codebook.higher_is_better.keys()


def test_codebooks_of_one_quantizer_are_averaged():
    even, constant = torch.arange(4), torch.zeros(4, dtype=torch.long)
    scores = score(torch.stack([even, constant], -1).reshape(1, 1, 2, 2, 2), codebook_size=4, num_codebooks=2)
    assert scores == pytest.approx({
        "codebook_usage": (1 + 1 / 4) / 2, "codebook_dead": 3 / 2, "codebook_perplexity": (4 + 1) / 2,
        "codebook_entropy": math.log(4) / 2, "codebook_entropy_min": 0,
        "codebook_entropy_bound": math.log(4), "codebook_digit_entropy": 1 / 2,
        "bits_per_pixel": 4 * 2 * 2 / 64})


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


def test_no_indices_are_refused():
    with pytest.raises(ValueError, match="no indices"):
        Codebook(codebook_size=4).compute()


@pytest.mark.parametrize(("indices", "message"), [
    (None, "continuous"), (torch.zeros(1, 1, 1, 1, 2, dtype=torch.long), "num_codebooks"),
    (torch.full((1, 1, 1, 1, 1), 4), "codebook_size"), (torch.full((1, 1, 1, 1, 1), -1), "codebook_size")])
def test_indices_of_another_codebook_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        score(indices, codebook_size=4)


@pytest.mark.parametrize("digits", [(2, 2, 2), (4, 2), (2, 4), (8,)])
def test_each_digits_entropy_is_that_of_its_own_values(digits):
    indices = torch.randint(0, 8, (1, 1, 10, 10, 2), generator=torch.Generator().manual_seed(0)) & 5
    codebook, clip = Codebook(codebook_size=8, num_codebooks=2, digits=digits), torch.zeros(1, 3, 1, 8, 8)
    codebook.update(target=clip, reconstruction=clip, indices=indices)
    for book, entropies in enumerate(codebook.digit_entropies()):
        values = np.unravel_index(indices[..., book].flatten().numpy(), digits)  # most significant first
        expected = []
        for digit, size in zip(values, digits, strict=True):
            p = np.bincount(digit, minlength=size) / 100
            expected.append(-(p[p > 0] * np.log(p[p > 0])).sum())
        assert entropies == pytest.approx(expected)


def test_a_bit_that_never_changes_shows_in_the_digits_although_codes_are_many():
    indices = torch.arange(2**10).reshape(1, 1, 32, 32, 1) << 1  # of eleven bits the last is always zero
    scores = score(indices, codebook_size=2**11, digits=(2,) * 11)
    assert scores["codebook_digit_entropy"] == pytest.approx(10 / 11)


@pytest.mark.parametrize(("options", "message"), [
    (dict(codebook_size=0), "continuous"), (dict(codebook_size=8, digits=(3, 3)), "product is codebook_size=8"),
    (dict(codebook_size=4, fps=0), r"fps above 0.*got 0")])
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Codebook(**options)


@pytest.mark.parametrize(("used", "collapsed"), [(1, True), (3, True), (40, False), (1024, False)])
def test_warning_tells_few_codes_from_many(used, collapsed):
    indices = torch.arange(10_240).remainder(used).reshape(1, 1, 1, -1, 1)
    warning = collapse_of(score(indices, codebook_size=1024))
    assert (warning is not None) == collapsed
    assert not warning or f"{1024 - used} are never used" in warning
    assert collapse_of({"psnr": 20.0}) is None  # needs scores of a codebook


def test_bits_per_second_are_those_of_the_positions_in_a_second_if_the_clips_have_a_rate():
    options = dict(codebook_size=2**18, pixels=(2, 3, 17, 128, 128))
    scores = score(torch.zeros(2, 5, 16, 16, 1, dtype=torch.long), fps=25.0, **options)
    assert scores["bits_per_second"] == pytest.approx(18 * 5 * 16 * 16 / (17 / 25))
    assert scores["bits_per_pixel"] == pytest.approx(18 * 5 * 16 * 16 / (17 * 128 * 128))
    assert scores["bits_per_second"] == pytest.approx(scores["bits_per_pixel"] * 128 * 128 * 25)
    known, unknown = Codebook(codebook_size=4, fps=8), Codebook(codebook_size=4)
    assert known.higher_is_better == unknown.higher_is_better | {"bits_per_second": False}
    assert unknown.higher_is_better == Codebook.higher_is_better


def test_warning_tells_one_dead_codebook_among_living_ones():
    even, constant = torch.arange(64), torch.zeros(64, dtype=torch.long)
    scores = score(torch.stack([even, even, constant], -1).reshape(1, 1, 8, 8, 3), codebook_size=64, num_codebooks=3)
    assert collapse_of(scores)


@pytest.mark.parametrize("indices", [
    [[1]], np.zeros((1, 1, 1, 1, 1), int), torch.full((1, 1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1, 1).bool(),
    torch.ones(1, 1, 1, 1, 1).half(), torch.zeros(1, 1, 1, 1, 1, dtype=torch.complex64)],
    ids=["list", "NumPy", "float32", "bool", "float16", "complex64"])
def test_what_is_no_tensor_of_integers_is_refused(indices):
    with pytest.raises(ValueError, match=r"Codebook takes integer indices as a torch.Tensor, got"):
        Codebook(codebook_size=8).update(target=PIXEL, reconstruction=PIXEL, indices=indices)


def test_a_single_index_and_a_clip_without_batch_are_refused():
    with pytest.raises(ValueError, match=r"Codebook takes indices \(B, \*positions, 1\), got \(\)"):
        Codebook(codebook_size=8).update(target=PIXEL, reconstruction=PIXEL, indices=torch.tensor(1))
    with pytest.raises(ValueError, match=r"Codebook takes a target \(B, C, T, H, W\), got \(3, 1, 4, 4\)"):
        Codebook(codebook_size=8).update(target=PIXEL[0], reconstruction=PIXEL[0], indices=torch.ones(1, 1).long())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32])
def test_stored_indices_of_every_integer_dtype_count_alike(dtype):
    codebook, indices = Codebook(codebook_size=8), torch.tensor([0, 5, 5, 7]).reshape(1, 1, 2, 2, 1)
    codebook.update(target=PIXEL, reconstruction=PIXEL, indices=indices.to(dtype))
    assert [counts.tolist() for counts in codebook.counts()] == [[2, 1, 1]]

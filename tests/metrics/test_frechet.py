"""Fréchet distances, against closed forms, SciPy, torchmetrics and published numbers."""

import logging
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from pooled import FewThumbnails, Thumbnails, crops, pair, part_of, photo, score
from torch import nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from toolkit.evaluation.intervals import merge
from toolkit.metrics import RFID, RFVD, frechet_distance, frechet_distance_of_features
from toolkit.metrics.features import add_products, gaussian
from toolkit.pretrained import inception_network


def fitted(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return features.double().mean(0), torch.cov(features.double().T)


# the distance of two Gaussians


def test_diagonal_gaussians_have_a_closed_form():
    means, deviations = torch.randn(2, 50), torch.rand(2, 50) * 3
    covariances = [torch.diag(x.square()) for x in deviations]
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    distance = frechet_distance(means[0], covariances[0], means[1], covariances[1])
    assert distance == pytest.approx(expected.item(), rel=1e-6)


def test_distance_is_scipys():
    (mean1, cov1), (mean2, cov2) = (fitted(torch.randn(200, 20) @ torch.randn(20, 20)) for _ in range(2))
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
    expected = (mean1 - mean2).square().sum() + (cov1 + cov2).trace() - 2 * np.trace(root)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(expected.item(), rel=1e-9)


def test_equal_gaussians_have_distance_0_and_those_without_spread_that_of_their_means():
    for count in (3, 40, 500):
        mean, cov = fitted(torch.randn(count, 40))
        assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-10
    zero = torch.zeros(3, 3)
    assert frechet_distance(torch.zeros(3), zero, torch.tensor([1.0, 2.0, 2.0]), zero) == 9
    assert frechet_distance(torch.zeros(3), zero, torch.zeros(3), torch.eye(3)) == 3


def test_values_that_are_not_finite_give_nan():
    one = torch.eye(2)
    assert math.isnan(frechet_distance(torch.tensor([0.0, math.nan]), one, torch.zeros(2), one))
    assert math.isnan(frechet_distance(torch.zeros(2), one, torch.zeros(2), one * math.inf))


@pytest.mark.parametrize("shapes", [((2,), (2, 2), (3,), (3, 3)), ((2,), (2, 2), (2,), (3, 3)),
                                    ((2,), (2,), (2,), (2,))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"two means \(D,\)"):
        frechet_distance(*map(torch.zeros, shapes))


@pytest.mark.parametrize("counts", [(2, 2), (10, 10), (10, 90), (90, 10), (90, 90), (3, 2)])
def test_distances_of_features_and_of_their_gaussians_are_equal_even_if_singular(counts):
    first, second = (torch.randn(n, 60) @ torch.randn(60, 60) + torch.randn(60) for n in counts)
    expected = frechet_distance(*fitted(first), *fitted(second))
    assert frechet_distance_of_features(first, second) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance_of_features(first, first.clone()) < 1e-9
    assert math.isnan(frechet_distance_of_features(first / 0, second))


@pytest.mark.parametrize("count", [100, 1000])
def test_distance_is_torch_fidelitys(count):
    first, second = (torch.randn(count, 80) @ torch.randn(80, 80) for _ in range(2))
    statistics = [fid_features_to_statistics(x) for x in (first, second)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance_of_features(first, second) == pytest.approx(expected, rel=1e-4)  # float32 means there
    assert frechet_distance(*fitted(first), *fitted(second)) == pytest.approx(expected, rel=1e-4)


# the metrics


def test_metric_is_torchmetrics():
    batch = pair(70, 3, 1, 8, 8)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    network.num_features = 48
    theirs = FrechetInceptionDistance(feature=network, normalize=True).set_dtype(torch.float64)
    for name, clips in batch.items():
        theirs.update(clips[:, :, 0].clamp(-1, 1), real=name == "target")
    assert score(Thumbnails(), **batch) == pytest.approx(theirs.compute().item(), rel=1e-4)


def test_pixels_are_clamped_and_measured_in_float32():
    target, reconstruction = pair(60, 3, 1, 8, 8, noise=1.0).values()
    assert reconstruction.abs().max() > 2
    assert score(Thumbnails(), target, reconstruction) == score(Thumbnails(), target, reconstruction.clamp(-1, 1))
    assert score(Thumbnails(), target.bfloat16().float(), target.bfloat16()) < 1e-10


def test_different_sizes_and_single_samples_are_refused():
    metric, frame = Thumbnails(), torch.zeros(1, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"Thumbnails.*equal size"):
        metric.update(target=frame, reconstruction=frame[..., :4])
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"Thumbnails needs at least 2 samples.*got {count}"):
            metric.compute()
        metric.update(target=frame, reconstruction=frame)
    assert metric.compute() == {"pooled": 0, "kernel": 0}


def test_features_and_sums_give_one_score_and_blocks_the_same():
    batch = pair(40, 3, 1, 8, 8)
    from_features = score(Thumbnails(), **batch)
    assert score(FewThumbnails(), **batch) == pytest.approx(from_features, rel=1e-7)
    for kind in (Thumbnails, FewThumbnails):
        blocks = [kind(), kind(), kind()]
        for block, part in zip(blocks, (slice(0, 2), slice(2, 30), slice(30, 40)), strict=True):
            block.update(**part_of(batch, part))
        assert merge(blocks).compute()["pooled"] == pytest.approx(from_features, rel=1e-7)
        assert merge(blocks).num_samples() == 40


def test_few_samples_are_warned_of_once(caplog):
    class Warned(Thumbnails):
        """Of which no other test has caused a warning."""

    batch = pair(49, 3, 1, 8, 8)
    with caplog.at_level(logging.WARNING, logger="toolkit.metrics.frechet"):
        score(Warned(), **batch)
        assert not caplog.records
        for _ in range(2):
            score(Warned(), **part_of(batch, slice(48)))
    assert [r.getMessage()[:43] for r in caplog.records] == ["Warned of 48 samples in 48 dimensions: the "]


# rFID


def test_rfid_of_a_photos_crops_is_that_of_their_features():
    target = crops(64, 96)
    reconstruction = target + 0.2 * torch.randn(target.shape)
    network = inception_network()
    features = (network(x.transpose(1, 2).flatten(0, 1).clamp(-1, 1)) for x in (target, reconstruction))
    assert score(RFID(), target, reconstruction) == pytest.approx(frechet_distance_of_features(*features), rel=1e-6)


@pytest.mark.slow
def test_rfid_of_equal_frames_is_0_and_rounds_to_8_bits_unless_told_otherwise():
    frames = torch.cat([photo()[..., x:x + 300] for x in range(0, 150, 30)])
    off = (frames + 0.4 / 127.5).clamp(-1, 1)
    assert score(RFID(), frames, frames.clone()) < 1e-8
    assert score(RFID(), frames, off) < 1e-8 < 1e-6 < score(RFID(value_type="float"), frames, off)


@pytest.mark.slow
def test_fid_of_noise_is_torchmetrics_published_number():
    """The example of torchmetrics' FrechetInceptionDistance(feature=64), whose docs say 12.6388."""
    network = inception_network(features=64)
    torch.manual_seed(42)
    torch.rand(21_751_136 + 2048 * 1008 + 1008)  # there a network with random weights is built after seeding
    gaussians = []
    for low, high in ((0, 200), (100, 255)):
        sums = torch.zeros((), dtype=torch.float64)
        for frames in torch.randint(low, high, (100, 3, 299, 299), dtype=torch.uint8).split(20):
            sums = add_products(sums, network(frames / 127.5 - 1))
        gaussians += gaussian(sums)
    assert frechet_distance(*gaussians) == pytest.approx(12.6388, abs=5e-5)


# rFVD


@pytest.mark.parametrize(("clips", "frames", "published"), [
    (2, 10, 569.8), pytest.param(8, 10, 569.8, marks=pytest.mark.slow), (2, 12, 552.8),
    pytest.param(2, 16, 152.9, marks=pytest.mark.slow), pytest.param(2, 30, 151.4, marks=pytest.mark.slow)])
def test_rfvd_of_black_against_white_is_the_published_number(clips, frames, published):
    """github.com/JunyaoHu/common_metrics_on_video_quality; 8 clips there, but equal ones have no covariance."""
    black = -torch.ones(clips, 3, frames, 64, 64)
    assert score(RFVD(), black, -black) == pytest.approx(published, rel=2e-4)


def test_rfvd_refuses_clips_of_fewer_than_10_frames():
    clips = torch.zeros(2, 3, 9, 32, 32)
    with pytest.raises(ValueError, match=r"at least 10 frames, got \(2, 3, 9, 32, 32\)"):
        RFVD().update(target=clips, reconstruction=clips)

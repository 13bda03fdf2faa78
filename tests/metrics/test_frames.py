"""Scores of frames, against scikit-image, closed forms and published numbers."""

import pytest
import torch
from pooled import crops, noisy, score, scores_by_scikit_image

from toolkit.metrics import LPIPS, MSSSIM, PSNR, SSIM
from toolkit.pretrained import lpips_network


def test_psnr_and_ssim_are_scikit_images_mean_over_frames():
    target = crops(48, 64)
    noise = torch.randn(target.shape) * torch.tensor([0.05, 0.4]).view(1, 1, 2, 1, 1)
    expected = scores_by_scikit_image(target, target + noise)
    assert score(PSNR(), target, target + noise) == pytest.approx(expected["psnr"], rel=1e-5)
    assert score(SSIM(), target, target + noise) == pytest.approx(expected["ssim"], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_perfect_frames_count_as_100_db_and_ssim_1(dtype):
    x = (torch.rand(1, 3, 2, 16, 16) * 2 - 1).to(dtype)
    assert score(PSNR(), x.float(), x) == pytest.approx(100) and score(SSIM(), x.float(), x) == pytest.approx(1)
    assert score(SSIM(), x[..., :11, :11], x[..., :11, :11]) == pytest.approx(1)  # its window


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_pixels_beyond_the_range_are_clamped(metric):
    white = torch.ones(1, 3, 1, 16, 16)
    assert score(metric, white, white * 1.5) == score(metric, white, white)


def test_lpips_of_black_against_white_is_the_published_number():
    """The lpips package's own: LPIPS(net="alex") of zeros against ones, 64 x 64, normalize=True."""
    black = -torch.ones(1, 3, 1, 64, 64)
    assert score(LPIPS(), black, -black) == pytest.approx(0.8140, abs=5e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_the_networks_mean_over_frames_and_is_called_by_the_network(net):
    target, metric = crops(40, 48), LPIPS(net=net)
    frames = [x.transpose(1, 2).flatten(0, 1) for x in (noisy(target, 0.4), target)]
    expected = lpips_network(net)(*frames).double().mean().item()
    assert metric.name == f"lpips_{net}" and metric.higher_is_better == {f"lpips_{net}": False}
    for at_once in (metric.batch_size, 3):  # changes nothing
        metric.batch_size = at_once
        assert score(metric, target, noisy(target, 0.4)) == pytest.approx(expected, rel=1e-5)


def test_blocks_share_one_lpips_network_that_nothing_trains():
    first, second = LPIPS(), LPIPS()
    assert first.network is second.network and not list(first.network.parameters())
    assert score(first, crops(40, 48), crops(40, 48).requires_grad_()) == 0
    with pytest.raises(ValueError, match="'alex' or 'vgg', got 'squeeze'"):
        LPIPS(net="squeeze")


@pytest.mark.parametrize(("metric", "size", "message"), [
    (SSIM(), (10, 32), r"SSIM.*11 x 11.*got \(10, 32\)"),
    (MSSSIM(), (160, 300), r"MSSSIM.*161 x 161.*got \(160, 300\)"),
    (LPIPS(net="alex"), (30, 64), "alex.*sides of at least 31"),
    (LPIPS(net="vgg"), (15, 64), "vgg.*sides of at least 16")])
def test_frames_that_are_too_small_are_refused(metric, size, message):
    small = torch.zeros(1, 3, 1, *size)
    with pytest.raises(ValueError, match=message):
        metric.update(target=small, reconstruction=small)


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_different_sizes_and_no_frames_are_refused(metric):
    with pytest.raises(ValueError, match="equal size"):
        metric.update(target=torch.zeros(1, 3, 2, 16, 16), reconstruction=torch.zeros(1, 3, 1, 16, 16))
    metric.reset()
    with pytest.raises(ValueError, match="no frames"):
        metric.compute()

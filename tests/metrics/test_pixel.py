"""PSNR and SSIM, against scikit-image and closed forms."""

import math

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from toolkit.metrics import PSNR, SSIM
from toolkit.registry import METRICS


@pytest.fixture(scope="module")
def clip_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A photo's crops as two clips of two frames, and the same with growing noise."""
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1) / 127.5 - 1
    clips = torch.stack([torch.stack([photo[:, y:y + 48, x:x + 64] for x in (60, 180)], 1)
                         for y in (40, 140)])
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    return clips, clips + noise * torch.tensor([0.05, 0.4]).view(1, 1, 2, 1, 1)


def unit_frames(clips: torch.Tensor) -> list[np.ndarray]:
    frames = clips.clamp(-1, 1).transpose(1, 2).flatten(0, 1)
    return [frame.permute(1, 2, 0).double().numpy() / 2 + 0.5 for frame in frames]


def test_psnr_is_scikit_images_mean_over_frames(clip_pair):
    psnr = PSNR()
    psnr.update(target=clip_pair[0], reconstruction=clip_pair[1], indices=None)
    expected = np.mean([peak_signal_noise_ratio(a, b, data_range=1.0)
                        for a, b in zip(*map(unit_frames, clip_pair), strict=True)])
    assert psnr.compute()["psnr"] == pytest.approx(expected, rel=1e-5)


def test_ssim_is_scikit_images_mean_over_frames(clip_pair):
    ssim = SSIM()
    ssim.update(target=clip_pair[0], reconstruction=clip_pair[1], indices=None)
    expected = np.mean([
        structural_similarity(a, b, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5,
                              use_sample_covariance=False)
        for a, b in zip(*map(unit_frames, clip_pair), strict=True)])
    assert ssim.compute()["ssim"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["PSNR", "SSIM"])
def test_batches_of_any_size_and_order_give_one_score(name, clip_pair):
    whole, parts = METRICS.build(dict(type=name)), METRICS.build(dict(type=name))
    whole.update(target=clip_pair[0], reconstruction=clip_pair[1], indices=None)
    for index in (1, 0):
        for t in (0, 1):
            one = (slice(index, index + 1), slice(None), slice(t, t + 1))
            parts.update(target=clip_pair[0][one], reconstruction=clip_pair[1][one], indices=None)
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-6)


def test_psnr_of_a_constant_error_is_its_closed_form():
    psnr, target = PSNR(), torch.zeros(1, 3, 2, 4, 4)
    psnr.update(target=target, reconstruction=target + 0.02, indices=None)  # 0.01 of the range
    assert psnr.compute()["psnr"] == pytest.approx(-20 * math.log10(0.01), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_perfect_frames_count_as_100_db_and_ssim_1(dtype):
    x = (torch.rand(1, 3, 2, 16, 16) * 2 - 1).to(dtype)
    psnr, ssim = PSNR(), SSIM()
    for metric in (psnr, ssim):
        metric.update(target=x.float(), reconstruction=x, indices=None)
    assert psnr.compute()["psnr"] == pytest.approx(100) and ssim.compute()["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_pixels_beyond_the_range_are_clamped(metric):
    white = torch.ones(1, 3, 1, 16, 16)
    metric.update(target=white, reconstruction=white * 1.5, indices=None)
    clamped = metric.compute()
    metric.reset()
    metric.update(target=white, reconstruction=white, indices=None)
    assert clamped == metric.compute()


def test_frames_smaller_than_ssims_window_are_refused():
    ssim, small = SSIM(), torch.zeros(1, 3, 1, 10, 32)
    with pytest.raises(ValueError, match=r"SSIM.*11 x 11.*10, 32"):
        ssim.update(target=small, reconstruction=small, indices=None)
    just = torch.rand(1, 3, 1, 11, 11)
    ssim.update(target=just, reconstruction=just, indices=None)
    assert ssim.compute()["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_different_sizes_and_no_frames_are_refused(metric):
    with pytest.raises(ValueError, match="equal size"):
        metric.update(target=torch.zeros(1, 3, 2, 16, 16), reconstruction=torch.zeros(1, 3, 1, 16, 16),
                      indices=None)
    metric.reset()
    with pytest.raises(ValueError, match="no frames"):
        metric.compute()

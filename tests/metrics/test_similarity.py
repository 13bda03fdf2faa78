"""MS-SSIM, against pytorch-msssim's numbers and SciPy's filters."""

import numpy as np
import pytest
import torch
from pooled import noisy, photo, score
from scipy.ndimage import gaussian_filter

from toolkit.metrics import MSSSIM, SSIM


def with_scipy(first: np.ndarray, second: np.ndarray) -> float:
    """Of two channels (H, W) in [0, 1]."""
    def windowed(x):
        return gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]

    result = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            first, second = (np.pad(x, [(0, n % 2) for n in x.shape], mode="edge") for x in (first, second))
            first, second = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4 for x in (first, second))
        a, b = windowed(first), windowed(second)
        covariance = windowed(first * second) - a * b
        structure = (2 * covariance + 9e-4) / (windowed(first**2) - a**2 + windowed(second**2) - b**2 + 9e-4)
        luminance = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
        result *= max((structure * (luminance if scale == 4 else 1)).mean(), 0) ** weight
    return result


@pytest.mark.parametrize("size", [(176, 192), (161, 173), (299, 201)])
def test_ms_ssim_is_the_product_of_scipys_terms_at_every_size(size):
    target = photo(*size)
    reconstruction = noisy(target, 0.3)
    channels = [x[0, :, 0].double().numpy() / 2 + 0.5 for x in (target, reconstruction)]
    expected = np.mean([with_scipy(a, b) for a, b in zip(*channels, strict=True)])
    assert score(MSSSIM(), target, reconstruction) == pytest.approx(expected, abs=1e-5)


def test_ms_ssim_is_pytorch_msssims_number():
    """pytorch_msssim 1.0.0's ms_ssim(data_range=1), in float64, where every side is even at all scales."""
    target = photo(288, 448)
    assert score(MSSSIM(), target, target.roll(2, -1)) == pytest.approx(0.8849, abs=5e-5)


def test_clips_are_the_mean_over_their_frames():
    frames = [noisy(photo(176, 176), amount) for amount in (0.1, 0.5)]
    alone = [score(MSSSIM(), photo(176, 176), frame) for frame in frames]
    assert score(MSSSIM(), photo(176, 176).repeat(1, 1, 2, 1, 1), torch.cat(frames, 2)) == pytest.approx(np.mean(alone))


def test_inverted_frames_score_0():
    target = photo(161, 161)
    assert score(MSSSIM(), target, -target) == 0  # a negative term, of which there is no root


def test_blur_costs_less_than_at_the_finest_scale_alone():
    target = photo(200, 200)
    blurred = torch.nn.functional.avg_pool3d(target, (1, 3, 3), 1, padding=(0, 1, 1), count_include_pad=False)
    assert score(MSSSIM(), target, blurred) > score(SSIM(), target, blurred)

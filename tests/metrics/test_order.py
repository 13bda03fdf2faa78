"""Worse reconstructions score worse."""

import pytest
import torch
from pooled import Thumbnails, noisy, pair, photo, score
from skimage import data

from toolkit.metrics import InceptionDistances, VideoDistances
from toolkit.registry import METRICS

AMOUNTS = (0.0, 0.05, 0.2, 0.6)


def pans(clips: int, frames: int) -> torch.Tensor:
    """Cameras that move over photos, each its own way: (clips, 3, T, 64, 64) in [-1, 1]."""
    photos = [torch.from_numpy(photo()).permute(2, 0, 1) / 127.5 - 1 for photo in (data.chelsea, data.coffee)]
    made = []
    for number in range(clips):
        photo, (y, x) = photos[number % 2], (20 + 18 * number, 300 - 40 * number)
        made.append(torch.stack([photo[:, y + 6 * t:y + 6 * t + 64, x + 5 * t:x + 5 * t + 64] for t in range(frames)],
                                dim=1))
    return torch.stack(made)


def scores(metric, target: torch.Tensor, reconstruction: torch.Tensor) -> dict[str, float]:
    """Of known targets where they have been seen before."""
    state = metric.target_state()
    metric.reset()
    if int(state["count"]):
        metric.load_target_state(state)
    metric.update(target=target, reconstruction=reconstruction)
    return metric.compute()


def check_rising(metric, target: torch.Tensor) -> None:
    found = [scores(metric, target, noisy(target, amount)) for amount in AMOUNTS]
    for name in metric.higher_is_better:
        values = [score[name] for score in found]
        assert abs(values[0]) < 1e-7 and values == sorted(values) and len(set(values)) == len(AMOUNTS), (name, values)


@pytest.mark.parametrize(("config", "perfect"), [
    (dict(type="PSNR"), 100), (dict(type="SSIM"), 1), (dict(type="MSSSIM"), 1), (dict(type="LPIPS", net="alex"), 0),
    (dict(type="LPIPS", net="vgg"), 0)])
def test_noise_of_rising_strength_worsens_scores_of_frames(config, perfect):
    metric, target = METRICS.build(config), photo(161, 161)
    found = [score(metric, target, noisy(target, amount)) for amount in AMOUNTS]
    assert found[0] == pytest.approx(perfect) and len(set(found)) == len(AMOUNTS)
    assert found == sorted(found, reverse=metric.higher_is_better[metric.name])


def test_noise_of_rising_strength_gives_rising_distances_of_thumbnails():
    check_rising(Thumbnails(), pair(20, 3, 4, 8, 8)["target"])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "clips", "frames"), [(InceptionDistances, 4, 3), (VideoDistances, 4, 10)])
def test_noise_of_rising_strength_gives_rising_distances(kind, clips, frames):
    check_rising(kind(), pans(clips, frames))


@pytest.mark.slow
def test_shuffled_frames_raise_the_distances_of_clips_and_leave_those_of_frames():
    target = pans(4, 10)
    shuffled = target[:, :, torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    of_clips, of_frames = VideoDistances(), InceptionDistances()
    assert scores(of_clips, target, target.clone())["rfvd"] < 1e-6
    found = scores(of_clips, target, shuffled)
    assert found["rfvd"] > 10 and found["kvd"] > 0
    assert scores(of_frames, target[:, :, :6], target[:, :, [3, 0, 5, 2, 1, 4]])["rfid"] < 1e-6

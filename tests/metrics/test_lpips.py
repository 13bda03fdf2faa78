"""LPIPS as a score."""

import pytest
import torch
from pooled import noisy, score
from skimage import data

from toolkit.metrics import LPIPS, PSNR
from toolkit.pretrained import lpips_network


def clips() -> torch.Tensor:
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1) / 127.5 - 1
    return torch.stack([torch.stack([photo[:, y:y + 40, x:x + 48] for x in (60, 180)], 1) for y in (40, 140)])


def test_black_against_white_is_the_published_number():
    """The lpips package's own: LPIPS(net="alex") of zeros against ones, 64 x 64, normalize=True."""
    black = -torch.ones(1, 3, 1, 64, 64)
    assert score(LPIPS(), black, -black) == pytest.approx(0.8140, abs=5e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_it_is_the_networks_mean_over_frames_and_is_called_by_the_network(net):
    target, metric = clips(), LPIPS(net=net)
    frames = [x.transpose(1, 2).flatten(0, 1) for x in (noisy(target, 0.4), target)]
    expected = lpips_network(net)(*frames).double().mean().item()
    assert metric.name == f"lpips_{net}" and metric.higher_is_better == {f"lpips_{net}": False}
    assert score(metric, target, noisy(target, 0.4)) == pytest.approx(expected, rel=1e-5)
    metric.batch_size = 3  # frames at once change nothing
    assert score(metric, target, noisy(target, 0.4)) == pytest.approx(expected, rel=1e-5)


def test_equal_frames_have_distance_0_and_noise_of_rising_strength_a_rising_one():
    target = clips()
    assert score(LPIPS(), target, target.clone()) == 0
    for metric, rises in ((LPIPS(), 1), (LPIPS(net="vgg"), 1), (PSNR(), -1)):
        found = [rises * score(metric, target, noisy(target, amount)) for amount in (0.05, 0.2, 0.8)]
        assert found == sorted(found) and len(set(found)) == 3


def test_blocks_share_one_network_that_nothing_trains():
    first, second = LPIPS(), LPIPS()
    assert first.network is second.network and not list(first.network.parameters())
    first.update(target=clips(), reconstruction=clips().requires_grad_())
    assert first.compute() == {"lpips_alex": 0}


@pytest.mark.parametrize(("net", "side"), [("alex", 30), ("vgg", 15)])
def test_small_frames_and_other_networks_are_refused(net, side):
    small = torch.zeros(1, 3, 1, side, 64)
    with pytest.raises(ValueError, match=f"{net}.*sides of at least {side + 1}"):
        LPIPS(net=net).update(target=small, reconstruction=small)
    with pytest.raises(ValueError, match="'alex' or 'vgg', got 'squeeze'"):
        LPIPS(net="squeeze")

"""Perceptual losses, against the lpips package and their formula."""

import lpips
import pytest
import torch
import torch.nn.functional as F

from toolkit.contracts import TokenizerOutput
from toolkit.losses import LPIPS, LogitDistance
from toolkit.pretrained import classifier

LITE0 = dict(backbone="tf_efficientnet_lite0", weights="weights/efficientnet_lite0")


def output_of(reconstruction: torch.Tensor) -> TokenizerOutput:
    return TokenizerOutput(reconstruction, reconstruction, reconstruction, None)


@pytest.fixture(scope="module")
def lpips_vgg() -> LPIPS:
    return LPIPS(net="vgg")


@pytest.fixture(scope="module")
def logit_distance() -> LogitDistance:
    return LogitDistance(**LITE0, size=64)


@pytest.fixture(params=["lpips_vgg", "logit_distance"])
def loss(request):
    return request.getfixturevalue(request.param)


def test_lpips_is_the_packages_mean_over_frames(lpips_vgg):
    first, second = torch.rand(2, 3, 2, 24, 32) * 2 - 1, torch.rand(2, 3, 2, 24, 32) * 2 - 1
    theirs = lpips_vgg.network.network.lpips
    assert isinstance(theirs, lpips.LPIPS)
    frames = [theirs(first[:, :, t], second[:, :, t]) for t in range(2)]
    torch.testing.assert_close(lpips_vgg(output_of(first), second), torch.stack(frames).mean())


def test_lpips_of_random_frames_compares_equal_frames_each_once(lpips_vgg):
    loss = LPIPS(net="vgg", frames_per_clip=2)
    clips = torch.rand(2, 3, 3, 24, 24) * 2 - 1
    assert loss(output_of(clips), clips).item() == 0.0   # unequal frames would differ

    # with the distance of frame t known, the value tells which frames were drawn
    other = clips.clone()
    other[:, :, 0] *= -1
    one = lpips_vgg(output_of(other[:, :, :1]), clips[:, :, :1]).item()
    torch.manual_seed(0)
    drawn = [round(LPIPS(net="vgg", frames_per_clip=1)(output_of(other[:1]), clips[:1]).item(), 3) for _ in range(12)]
    single = round(lpips_vgg(output_of(other[:1, :, :1]), clips[:1, :, :1]).item(), 3)
    assert set(drawn) == {0.0, single}
    assert LPIPS(net="vgg", frames_per_clip=3)(output_of(other), clips).item() == pytest.approx(one / 3, rel=1e-4)


def test_lpips_of_no_frames_is_refused():
    with pytest.raises(ValueError, match="frames_per_clip must be at least 1, or None for all frames, got 0"):
        LPIPS(frames_per_clip=0)


def test_logit_distance_is_the_mean_squared_distance_of_resized_frames(logit_distance):
    first, second = torch.rand(1, 3, 2, 40, 32) * 2 - 1, torch.rand(1, 3, 2, 40, 32) * 2 - 1
    model = classifier(LITE0["backbone"], weights=LITE0["weights"]).network.model

    def logits(clip):
        unit = (clip[0].transpose(0, 1) + 1) / 2
        small = F.interpolate(unit, (64, 64), mode="bilinear", antialias=True, align_corners=False)
        return model((small - 0.5) / 0.5)

    expected = (logits(first) - logits(second)).square().sum() / (2 * 1000)
    torch.testing.assert_close(logit_distance(output_of(first), second), expected)


def test_gradient_reaches_the_reconstruction_only_and_nothing_is_trained_or_saved(loss):
    reconstruction = (torch.rand(1, 3, 1, 32, 32) * 2 - 1).requires_grad_()
    target = (torch.rand(1, 3, 1, 32, 32) * 2 - 1).requires_grad_()
    loss.train()(output_of(reconstruction), target).backward()
    assert reconstruction.grad.isfinite().all() and reconstruction.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None for p in loss.network.network.parameters())
    assert not loss.state_dict() and not list(loss.parameters())


def test_gradient_is_the_slope(loss):
    torch.manual_seed(0)
    target, reconstruction = torch.rand(1, 3, 1, 32, 32), torch.rand(1, 3, 1, 32, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(output_of(reconstruction), target), reconstruction)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        rise = loss(output_of(reconstruction + step), target) - loss(output_of(reconstruction - step), target)
    assert (rise / 2e-2).item() == pytest.approx(gradient.norm().item(), rel=0.02)


def test_autocast_does_not_change_the_value(loss):
    first, second = torch.rand(1, 3, 1, 32, 32), torch.rand(1, 3, 1, 32, 32)
    plain = loss(output_of(first), second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(output_of(first), second)
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)

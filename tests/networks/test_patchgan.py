"""PatchGAN against the published networks, written out with torch's 2-D and 3-D layers."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch import nn

from toolkit.layers import JointBatchNorm
from toolkit.networks import PatchGANDiscriminator


def taming() -> nn.Sequential:
    """NLayerDiscriminator of VQGAN's code, 4 filters, 3 layers."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(4, 8, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, stride=1, padding=1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 4, stride=1, padding=1))


def open_magvit2_video() -> nn.Sequential:
    """NLayerDiscriminator3D of Open-MAGVIT2's video model, 4 filters, its 4 layers: the width stops at eightfold."""
    return nn.Sequential(
        nn.Conv3d(3, 4, 3, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv3d(4, 8, 3, stride=(2, 2, 2), padding=1, bias=False), nn.BatchNorm3d(8), nn.LeakyReLU(0.2),
        nn.Conv3d(8, 16, 3, stride=(1, 2, 2), padding=1, bias=False), nn.BatchNorm3d(16), nn.LeakyReLU(0.2),
        nn.Conv3d(16, 32, 3, stride=(1, 2, 2), padding=1, bias=False), nn.BatchNorm3d(32), nn.LeakyReLU(0.2),
        nn.Conv3d(32, 32, 3, stride=1, padding=1, bias=False), nn.BatchNorm3d(32), nn.LeakyReLU(0.2),
        nn.Conv3d(32, 1, 3, stride=1, padding=1))


def as_published(state: dict[str, torch.Tensor], like: nn.Module) -> dict[str, torch.Tensor]:
    """Ours under the published names and shapes: without ``main.`` and, for 2-D kernels, the temporal axis."""
    shapes = {name: value.shape for name, value in like.state_dict().items()}
    return {name: state[f"main.{name}"].reshape(shape) for name, shape in shapes.items()}


def assert_equal_in_training(ours: PatchGANDiscriminator, theirs: nn.Sequential, *, frames: bool) -> None:
    assert len(ours.state_dict()) == len(theirs.state_dict())
    theirs.load_state_dict(as_published(ours.state_dict(), theirs))
    clip = torch.randn(2, 3, 5, 32, 40)
    for step in range(2):
        logits = ours(clip + step)
        pixels = rearrange(clip + step, "b c t h w -> (b t) c h w") if frames else clip + step
        expected = theirs(pixels)
        if frames:
            expected = rearrange(expected, "(b t) c h w -> b c t h w", t=5)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        logits.square().sum().backward()
        expected.square().sum().backward()
    torch.testing.assert_close(as_published(ours.state_dict(), theirs), dict(theirs.state_dict()), rtol=1e-4, atol=1e-5)
    gradients = {f"main.{name}": parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad.flatten(), gradients[name].flatten(), rtol=1e-3, atol=1e-4)


def test_logits_of_frames_are_those_of_vqgan():
    assert_equal_in_training(PatchGANDiscriminator(filters=4), taming(), frames=True)


def test_logits_of_clips_are_those_of_open_magvit2():
    ours = PatchGANDiscriminator(filters=4, num_layers=4, temporal_kernel=3)
    assert_equal_in_training(ours, open_magvit2_video(), frames=False)


def test_published_weights_fit_name_by_name():
    theirs = taming()
    theirs(torch.randn(2, 3, 32, 32))  # so that the running statistics are not all zeros and ones
    state = {f"main.{name}": value.unsqueeze(2) if value.ndim == 4 else value
             for name, value in theirs.state_dict().items()}
    ours = PatchGANDiscriminator(filters=4)
    ours.load_state_dict(state)
    pixels = torch.randn(2, 3, 1, 32, 32)
    torch.testing.assert_close(ours.eval()(pixels)[:, :, 0], theirs.eval()(pixels[:, :, 0]), rtol=1e-4, atol=1e-6)


def test_size_is_the_one_that_pix2pix_prints():
    # "[Network D] Total number of parameters : 2.769 M", for pairs of images
    network = PatchGANDiscriminator(in_channels=6)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(2.769e6, abs=500)


@torch.no_grad()
def test_width_doubles_up_to_eightfold():
    network = PatchGANDiscriminator(filters=2, num_layers=5)
    assert [layer.out_channels for layer in network.main if isinstance(layer, nn.Conv3d)] == [2, 4, 8, 16, 16, 16, 1]


@pytest.mark.parametrize(("num_layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_the_papers_patch(num_layers, side):
    # pix2pix names its discriminators after their receptive field: 16 x 16 and 70 x 70
    network = PatchGANDiscriminator(filters=2, num_layers=num_layers).eval()
    pixels = torch.randn(1, 3, 1, 128, 128, requires_grad=True)
    logits = network(pixels)
    logits[0, 0, 0, logits.shape[3] // 2, logits.shape[4] // 2].backward()
    seen = pixels.grad[0, :, 0].abs().sum(0) > 0
    assert seen.any(0).sum() == side and seen.any(1).sum() == side


@pytest.mark.parametrize(("temporal_kernel", "size", "grid"), [
    (1, (5, 24, 24), (5, 1, 1)), (1, (1, 256, 256), (1, 30, 30)), (1, (2, 33, 47), (2, 2, 3)),
    (3, (17, 128, 128), (5, 16, 16)), (3, (1, 8, 9), (1, 1, 2)), (3, (4, 16, 16), (1, 2, 2))])
@torch.no_grad()
def test_any_size_gives_a_grid_of_logits(temporal_kernel, size, grid):
    network = PatchGANDiscriminator(filters=2, temporal_kernel=temporal_kernel)
    assert network.size is None and network(torch.zeros(2, 3, *size)).shape == (2, 1, *grid)


@pytest.mark.parametrize(("num_layers", "height", "width"), [(3, 23, 32), (3, 32, 23), (1, 5, 8)])
def test_too_small_frames_are_a_value_error_with_the_cure(num_layers, height, width):
    least = 3 * 2**num_layers
    with pytest.raises(ValueError) as error:
        PatchGANDiscriminator(filters=2, num_layers=num_layers)(torch.zeros(1, 3, 1, height, width))
    assert str(error.value) == (
        f"PatchGANDiscriminator takes frames of at least {least} x {least}, got {height} x {width}; enlarge the "
        "training data's size or lower num_layers.")


@pytest.mark.parametrize("arguments", [dict(num_layers=0), dict(temporal_kernel=2), dict(temporal_kernel=5)])
def test_misfits_are_refused_at_construction(arguments):
    with pytest.raises(ValueError, match=r"num_layers from 1 to 16 and a temporal_kernel of 1 \(frames\) or 3"):
        PatchGANDiscriminator(**arguments)


def test_weights_begin_as_the_published_ones():
    network = PatchGANDiscriminator()
    kernels = torch.cat([layer.weight.flatten() for layer in network.main if isinstance(layer, nn.Conv3d)])
    norms = [layer for layer in network.main if isinstance(layer, JointBatchNorm)]
    scales = torch.cat([norm.weight for norm in norms])
    # of a million draws and of almost a thousand
    assert kernels.mean().item() == pytest.approx(0, abs=1e-4) and kernels.std().item() == pytest.approx(0.02, rel=0.01)
    assert scales.mean().item() == pytest.approx(1, abs=5e-3) and scales.std().item() == pytest.approx(0.02, rel=0.15)
    assert all((norm.bias == 0).all() for norm in norms)
    assert network.main[0].bias.abs().max() <= (3 * 4 * 4) ** -0.5  # torch's default


@torch.no_grad()
def test_logits_depend_on_the_batch_in_training_only():
    network, clips = PatchGANDiscriminator(filters=2, num_layers=2), torch.randn(3, 3, 2, 16, 16)
    assert network.batch_statistics
    assert not torch.allclose(network(clips)[:1], network(clips[:1]), atol=1e-4)
    network.eval()
    torch.testing.assert_close(network(clips)[:1], network(clips[:1]))

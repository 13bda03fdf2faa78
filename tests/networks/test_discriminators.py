"""StyleGAN's discriminator: its blur, sizes and second derivatives; PatchGAN against the published networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from toolkit.contracts import Discriminator
from toolkit.layers import CausalConv3d, JointBatchNorm, ResBlock
from toolkit.networks import PatchGANDiscriminator, StyleGANDiscriminator
from toolkit.networks.discriminators import blur_pool
from toolkit.training.objective import r1_penalty

SMALL = dict(filters=4, channel_multipliers=(2, 2))


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 9), (2, 2, 2), (3, 2, 5), (2, 3, 5), (17, 4, 4)])
@pytest.mark.parametrize("time", [True, False])
@pytest.mark.parametrize("padding", ["reflect", "same"])
@torch.no_grad()
def test_blur_is_a_strided_convolution_with_121_after_padding(size, time, padding):
    x = torch.randn(2, 3, *size)
    line = torch.tensor([1.0, 2.0, 1.0])
    kernel = torch.einsum("i,j,k->ijk", line if time else torch.ones(1), line, line)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1, -1)
    # SAME pads even sides after them, odd ones on both sides.
    t, h, w = ((1, 1) if padding == "reflect" or side % 2 else (0, 1) for side in size)
    padded = F.pad(x, (*w, *h, *(t if time else (0, 0))), mode="reflect" if padding == "reflect" else "constant")
    expected = F.conv3d(padded, kernel, stride=(2 if time else 1, 2, 2), groups=3)
    torch.testing.assert_close(blur_pool(x, time=time, padding=padding), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(5, 16, 16), (4, 8, 16), (3, 9, 7)])
@pytest.mark.parametrize("temporal_kernel", [1, 3])
@torch.no_grad()
def test_one_logit_per_sample(size, temporal_kernel):
    network = StyleGANDiscriminator(size=size, temporal_kernel=temporal_kernel, **SMALL)
    assert network(torch.randn(3, 3, *size)).shape == (3, 1)


@pytest.mark.parametrize(("temporal_kernel", "grid"), [(3, 2 * 2 * 4), (1, 5 * 2 * 4)])
def test_only_a_network_with_time_halves_time(temporal_kernel, grid):
    network = StyleGANDiscriminator(size=(5, 8, 16), temporal_kernel=temporal_kernel, **SMALL)
    assert network.linear1.in_features == 8 * grid
    # The shortcuts have kernels of one position.
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    assert {conv.kernel_size[0] for conv in convolutions if conv.kernel_size[1] > 1} == {temporal_kernel}
    assert {conv.stride for conv in convolutions} == {(1, 1, 1)}
    with torch.device("meta"):
        network = StyleGANDiscriminator()
    assert len(network.blocks) == 5 and network.linear1.in_features == 512 * 1 * 4 * 4


def directional_derivatives(function: Callable[[], Tensor], weight: Tensor, *, step: float) -> tuple[float, float]:
    """The derivative of a () function along a random direction of ``weight``: by autograd, by central differences."""
    gradient, = torch.autograd.grad(function(), weight)
    direction, values = torch.randn_like(weight), []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        values.append(function().item())
        with torch.no_grad():
            weight -= sign * step * direction
    return (gradient * direction).sum().item(), (values[0] - values[1]) / (2 * step)


def test_second_derivatives_are_those_of_finite_differences():
    network = StyleGANDiscriminator(filters=2, channel_multipliers=(2,), size=(2, 4, 4)).double()
    pixels = torch.randn(1, 3, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def penalty() -> torch.Tensor:
        gradient, = torch.autograd.grad(network(pixels).sum(), pixels, create_graph=True)
        return gradient.square().sum()

    analytic, numeric = directional_derivatives(penalty, network.conv_in.weight, step=1e-6)
    assert numeric == pytest.approx(analytic, rel=1e-4)
    assert abs(numeric) > 1e-8


@pytest.mark.parametrize("size", [(5, 16, 8), (4, 16, 16), (5, 16, 17)])
def test_another_size_is_a_value_error_that_names_both(size):
    network = StyleGANDiscriminator(size=(5, 16, 16), **SMALL)
    with pytest.raises(ValueError, match=r"\(5, 16, 16\), got \(" + ", ".join(map(str, size))):
        network(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(("size", "done"), [((5, 8, 16), 3), ((5, 4, 64), 2), ((1, 64, 64), 0), ((3, 64, 64), 2)])
def test_more_halvings_than_a_side_allows_is_an_error_at_construction(size, done):
    with pytest.raises(ValueError, match=f"only {done} times, got 4 blocks"):
        StyleGANDiscriminator(filters=2, channel_multipliers=(1, 1, 1, 1), size=size)
    StyleGANDiscriminator(filters=2, channel_multipliers=(1,) * done, size=size)


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="'reflect' or 'same', got 'zeros'"):
        StyleGANDiscriminator(blur_padding="zeros")


@pytest.mark.parametrize("padding", ["reflect", "same"])
@pytest.mark.parametrize("time", [True, False])
@pytest.mark.parametrize("size", [(2, 4, 5), (5, 3, 2)])
def test_first_and_second_gradients_of_the_blur_agree_with_finite_differences(padding, time, size):
    x = torch.randn(2, 1, *size, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: blur_pool(x, time=time, padding=padding), x)
    assert torch.autograd.gradgradcheck(lambda x: blur_pool(x, time=time, padding=padding).square(), x)


def test_discriminator_of_causal_convolutions_learns_from_the_gradient_penalty():
    class Causal(Discriminator):
        in_channels, size = 3, None

        def __init__(self):
            super().__init__()
            self.conv_in = CausalConv3d(3, 4, kernel_size=(3, 3, 3), stride=(1, 2, 2))
            self.block = ResBlock(4, 4, temporal_kernel=3)
            self.conv_out = CausalConv3d(4, 1, kernel_size=(3, 3, 3))

        def forward(self, pixels):
            return self.conv_out(self.block(self.conv_in(pixels)))

    network, pixels = Causal().double(), torch.randn(2, 3, 3, 8, 8, dtype=torch.double)

    def penalty() -> torch.Tensor:
        inputs = pixels.clone().requires_grad_()
        return r1_penalty(network(inputs), inputs)

    analytic, numeric = directional_derivatives(penalty, network.conv_in.weight, step=1e-3)
    assert numeric == pytest.approx(analytic, rel=1e-2)


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


def as_published(state: dict[str, Tensor], like: nn.Module) -> dict[str, Tensor]:
    """Ours under the published names and shapes: without ``main.`` and, for 2-D kernels, the temporal axis."""
    return {name: state[f"main.{name}"].reshape(value.shape) for name, value in like.state_dict().items()}


@pytest.mark.parametrize(("arguments", "published", "frames"), [
    ({}, taming, True), (dict(num_layers=4, temporal_kernel=3), open_magvit2_video, False)])
def test_logits_gradients_and_statistics_in_training_are_the_published_ones(arguments, published, frames):
    ours, theirs = PatchGANDiscriminator(filters=4, **arguments), published()
    assert len(ours.state_dict()) == len(theirs.state_dict())
    theirs.load_state_dict(as_published(ours.state_dict(), theirs))

    def published_logits(clip: Tensor) -> Tensor:
        if not frames:
            return theirs(clip)
        return rearrange(theirs(rearrange(clip, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", t=5)

    clip = torch.randn(2, 3, 5, 32, 40)
    for step in range(2):
        logits, expected = ours(clip + step), published_logits(clip + step)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        logits.square().sum().backward()
        expected.square().sum().backward()
    torch.testing.assert_close(as_published(ours.state_dict(), theirs), dict(theirs.state_dict()), rtol=1e-4, atol=1e-5)
    gradients = {f"main.{name}": parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad.flatten(), gradients[name].flatten(), rtol=1e-3, atol=1e-4)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(clip), published_logits(clip), rtol=1e-4, atol=1e-5)


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

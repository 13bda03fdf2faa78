"""StyleGAN's discriminator: its blur, its sizes, its second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.contracts import Discriminator
from toolkit.layers import CausalConv3d, ResBlock
from toolkit.networks import StyleGANDiscriminator
from toolkit.networks.discriminators import blur_pool
from toolkit.training.objective import r1_penalty

SMALL = dict(filters=4, channel_multipliers=(2, 2))


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 9), (2, 2, 2), (3, 2, 5), (17, 4, 4)])
@pytest.mark.parametrize("time", [True, False])
@torch.no_grad()
def test_blur_is_a_strided_convolution_with_121_after_reflection(size, time):
    x = torch.randn(2, 3, *size)
    line = torch.tensor([1.0, 2.0, 1.0])
    kernel = torch.einsum("i,j,k->ijk", line if time else torch.ones(1), line, line)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1, -1)
    padding = (1, 1, 1, 1, 1, 1) if time else (1, 1, 1, 1, 0, 0)
    expected = F.conv3d(F.pad(x, padding, mode="reflect"), kernel, stride=(2 if time else 1, 2, 2), groups=3)
    torch.testing.assert_close(blur_pool(x, time=time), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 9), (2, 3, 5)])
@torch.no_grad()
def test_same_blur_pads_even_sides_after_and_odd_ones_on_both(size):
    x = torch.randn(2, 3, *size)
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.einsum("i,j,k->ijk", line, line, line).expand(3, 1, -1, -1, -1)
    t, h, w = ((1, 1) if side % 2 else (0, 1) for side in size)
    expected = F.conv3d(F.pad(x, (*w, *h, *t)), kernel, stride=2, groups=3)
    torch.testing.assert_close(blur_pool(x, time=True, padding="same"), expected, rtol=1e-5, atol=1e-6)
    frames = blur_pool(x, time=False, padding="same")
    assert frames.shape == (2, 3, size[0], (size[1] + 1) // 2, (size[2] + 1) // 2)


@pytest.mark.parametrize("size", [(5, 16, 16), (4, 8, 16), (3, 9, 7)])
@pytest.mark.parametrize("temporal_kernel", [1, 3])
@torch.no_grad()
def test_one_logit_per_sample(size, temporal_kernel):
    network = StyleGANDiscriminator(size=size, temporal_kernel=temporal_kernel, **SMALL)
    pixels = torch.randn(3, 3, *size)
    logits = network(pixels)
    assert logits.shape == (3, 1)
    torch.testing.assert_close(logits[1:2], network(pixels[1:2]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("temporal_kernel", "grid"), [(3, 2 * 2 * 4), (1, 5 * 2 * 4)])
def test_only_a_network_with_time_halves_time(temporal_kernel, grid):
    network = StyleGANDiscriminator(size=(5, 8, 16), temporal_kernel=temporal_kernel, **SMALL)
    assert network.linear1.in_features == 8 * grid
    assert {m.kernel_size[0] for m in (network.conv_in, network.conv_out, network.blocks[0].conv1)} == {temporal_kernel}


@torch.no_grad()
def test_network_without_time_computes_features_of_each_frame_separately():
    network = StyleGANDiscriminator(size=(3, 8, 8), temporal_kernel=1, **SMALL)
    features = []
    network.conv_out.register_forward_hook(lambda module, inputs, output: features.append(output))
    clip = torch.randn(1, 3, 3, 8, 8)
    changed = clip.clone()
    changed[:, :, 1] += 1
    network(clip), network(changed)
    difference = (features[0] - features[1]).abs().amax((0, 1, 3, 4))
    assert difference[0] == 0 and difference[1] > 0 and difference[2] == 0


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
    weight = network.conv_in.weight

    def penalty() -> torch.Tensor:
        gradient, = torch.autograd.grad(network(pixels).sum(), pixels, create_graph=True)
        return gradient.square().sum()

    analytic, numeric = directional_derivatives(penalty, weight, step=1e-6)
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


def test_image_gets_one_logit():
    network = StyleGANDiscriminator(filters=2, channel_multipliers=(1, 1, 1, 1), size=(1, 16, 16), temporal_kernel=1)
    assert network(torch.zeros(1, 3, 1, 16, 16)).shape == (1, 1)


def test_default_size_takes_the_defaults_five_blocks():
    with torch.device("meta"):
        network = StyleGANDiscriminator()
    assert len(network.blocks) == 5 and network.linear1.in_features == 512 * 1 * 4 * 4


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
    weight = network.conv_in.weight

    def penalty() -> torch.Tensor:
        inputs = pixels.clone().requires_grad_()
        return r1_penalty(network(inputs), inputs)

    analytic, numeric = directional_derivatives(penalty, weight, step=1e-3)
    assert numeric == pytest.approx(analytic, rel=1e-2)

"""Per-frame normalisation against torch's on each frame."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from toolkit.layers import (
    AdaptiveGroupNorm,
    ClipGroupNorm,
    FrameGroupNorm,
    PooledAdaptiveGroupNorm,
    PositionGroupNorm,
)
from toolkit.layers.norm import num_groups_for


@pytest.mark.parametrize("channels", range(1, 131))
def test_groups_are_the_largest_divisor_up_to_32(channels):
    groups = num_groups_for(channels)
    assert channels % groups == 0 and groups <= 32
    assert all(channels % more for more in range(groups + 1, min(32, channels) + 1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("eps", [1e-5, 1e-1])
def test_frame_norm_and_its_gradients_are_those_of_group_norm_of_each_frame(memory_format, eps):
    norm = FrameGroupNorm(12, num_groups=4, eps=eps)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    widths = torch.tensor([1.0, 10.0, 0.1]).reshape(1, 1, 3, 1, 1)
    x = (torch.randn(2, 12, 3, 4, 5) * widths).contiguous(memory_format=memory_format).requires_grad_()
    output, weights = norm(x), torch.randn(2, 12, 3, 4, 5) * widths
    expected = torch.stack([F.group_norm(frame.contiguous(), 4, norm.weight, norm.bias, eps)
                            for frame in x.unbind(2)], dim=2)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert memory_format is torch.contiguous_format or output.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (output, expected)),
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("num_groups", [1, 4])
@pytest.mark.parametrize("affine", [True, False])
def test_position_norm_and_its_gradients_are_those_of_group_norm_of_each_position(memory_format, num_groups, affine):
    norm = PositionGroupNorm(12, num_groups=num_groups, eps=1e-3, affine=affine)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 12, 3, 4, 5).contiguous(memory_format=memory_format).requires_grad_()
    output, weights = norm(x), torch.randn(2, 12, 3, 4, 5)
    positions = x.movedim(1, -1).reshape(-1, 12)
    expected = F.group_norm(positions, num_groups, norm.weight, norm.bias, eps=1e-3)
    expected = expected.reshape(2, 3, 4, 5, 12).movedim(-1, 1)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert memory_format is torch.contiguous_format or output.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (output, expected)),
                               rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_adaptive_norm_scales_by_one_plus_gamma_and_shifts_by_beta_of_each_position():
    norm = AdaptiveGroupNorm(8, condition_channels=3, norm=partial(FrameGroupNorm, num_groups=2, eps=1e-3))
    x, codes = torch.randn(2, 8, 2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 2, 3, 4, dtype=torch.float64)
    norm.double()
    groups = x.reshape(2, 2, 4, 2, 3, 4)  # (B, groups, channels of one, T, H, W)
    mean = groups.mean((2, 4, 5), keepdim=True)
    variance = groups.var((2, 4, 5), keepdim=True, unbiased=False)
    plain = ((groups - mean) / (variance + 1e-3).sqrt()).reshape(x.shape)
    gamma = torch.einsum("cd,bdthw->bcthw", norm.gamma.weight, codes) + norm.gamma.bias.reshape(1, 8, 1, 1, 1)
    beta = torch.einsum("cd,bdthw->bcthw", norm.beta.weight, codes) + norm.beta.bias.reshape(1, 8, 1, 1, 1)
    torch.testing.assert_close(norm(x, codes), plain * (1 + gamma) + beta)
    assert dict(norm.named_parameters()).keys() == {"gamma.weight", "gamma.bias", "beta.weight", "beta.bias"}


@torch.no_grad()
def test_clip_norm_is_torchs_group_norm_of_the_whole_clip():
    norm, x = ClipGroupNorm(12, num_groups=4, eps=1e-3), torch.randn(2, 12, 3, 4, 5)
    torch.testing.assert_close(norm(x), F.group_norm(x, 4, eps=1e-3))


@pytest.mark.parametrize(("norm", "axes"), [(ClipGroupNorm, (2, 3, 4)), (FrameGroupNorm, (3, 4))])
@torch.no_grad()
def test_pooled_adaptive_norm_scales_by_gamma_of_the_deviation_and_shifts_by_beta_of_the_mean(norm, axes):
    layer = PooledAdaptiveGroupNorm(8, condition_channels=3, norm=partial(norm, num_groups=2)).double()
    x, codes = torch.randn(2, 8, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 3, 2, 2, dtype=torch.float64)
    deviation = (codes.var(axes, keepdim=True, unbiased=True) + 1e-6).sqrt()
    gamma = torch.einsum("cd,bdthw->bcthw", layer.gamma.weight, deviation) + layer.gamma.bias.reshape(1, 8, 1, 1, 1)
    beta = (torch.einsum("cd,bdthw->bcthw", layer.beta.weight, codes.mean(axes, keepdim=True))
            + layer.beta.bias.reshape(1, 8, 1, 1, 1))
    torch.testing.assert_close(layer(x, codes), layer.norm(x) * gamma + beta)


@torch.no_grad()
def test_deviation_of_a_single_position_is_that_of_no_variance():
    layer = PooledAdaptiveGroupNorm(8, condition_channels=3, norm=ClipGroupNorm)
    x, codes = torch.randn(1, 8, 1, 4, 4), torch.randn(1, 3, 1, 1, 1)
    expected = layer.norm(x) * layer.gamma(torch.full((3,), 1e-3)).reshape(1, 8, 1, 1, 1)
    expected = expected + layer.beta(codes.flatten()).reshape(1, 8, 1, 1, 1)
    torch.testing.assert_close(layer(x, codes), expected)


@pytest.mark.parametrize("norm", [ClipGroupNorm, FrameGroupNorm, PositionGroupNorm])
def test_a_group_of_a_single_value_becomes_the_shift(norm):
    layer, x = norm(8), torch.randn(1, 8, 1, 1, 1, requires_grad=True)
    torch.nn.init.normal_(layer.bias)
    y = layer(x)  # (x - mean) / sqrt(0 + eps) is 0
    torch.testing.assert_close(y.flatten(), layer.bias, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(y.sum(), x)[0].count_nonzero() == 0


@pytest.mark.parametrize(("kind", "norm"), [(AdaptiveGroupNorm, FrameGroupNorm), (AdaptiveGroupNorm, PositionGroupNorm),
                                            (PooledAdaptiveGroupNorm, FrameGroupNorm)])
def test_adaptive_norms_take_chunks_without_frames(kind, norm):
    norm = kind(8, condition_channels=4, norm=norm)
    assert norm(torch.zeros(1, 8, 0, 2, 2), torch.zeros(1, 4, 0, 2, 2)).shape == (1, 8, 0, 2, 2)

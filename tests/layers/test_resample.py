"""Resampling: the order of channels, the frames that are dropped, the shortcuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from toolkit.layers import (
    DepthToSpaceUpsample,
    ResidualDownsample,
    ResidualUpsample,
    depth_to_space,
    repeat_nearest,
    space_to_depth,
)

STRIDES = pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (2, 1, 1), (3, 2, 1), (1, 1, 1)])


@STRIDES
def test_depth_to_space_reads_channels_as_time_row_column_channel(stride):
    (s_t, s_h, s_w), channels, t, h, w = stride, 2, 3, 2, 3
    x = torch.arange(s_t * s_h * s_w * channels * t * h * w).reshape(1, -1, t, h, w)
    out = depth_to_space(x, stride)
    assert out.shape == (1, channels, 1 + (t - 1) * s_t, h * s_h, w * s_w)
    for c, frame, row, column in np.ndindex(*out.shape[1:]):
        full = frame + s_t - 1  # the s_t - 1 leading frames are gone
        source = ((full % s_t * s_h + row % s_h) * s_w + column % s_w) * channels + c
        assert out[0, c, frame, row, column] == x[0, source, full // s_t, row // s_h, column // s_w]


@STRIDES
def test_repeat_nearest_is_torchs_nearest_interpolation_without_the_leading_frames(stride):
    x = torch.randn(2, 3, 4, 2, 3)
    expected = F.interpolate(x, scale_factor=stride, mode="nearest")[:, :, stride[0] - 1:]
    assert torch.equal(repeat_nearest(x, stride), expected)


@STRIDES
@pytest.mark.parametrize("temporal_kernel", [1, 3])
@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("kept_frame", ["last", "first"])
def test_upsampling_and_its_gradients_equal_reshape_and_permute(stride, temporal_kernel, frames, kept_frame):
    layer = DepthToSpaceUpsample(4, stride=stride, temporal_kernel=temporal_kernel, kept_frame=kept_frame).double()
    x = torch.randn(2, 4, frames, 3, 5, dtype=torch.double, requires_grad=True)
    padded = F.pad(x, (1, 1, 1, 1, temporal_kernel - 1, 0))
    wide = F.conv3d(padded, layer.conv.weight, layer.conv.bias)
    s_t, s_h, s_w = stride
    expected = wide.reshape(2, s_t, s_h, s_w, 4, frames, 3, 5).permute(0, 4, 5, 1, 6, 2, 7, 3)
    expected = expected.reshape(2, 4, frames * s_t, 3 * s_h, 5 * s_w)
    chosen = [s_t - 1 if kept_frame == "last" else 0, *range(s_t, frames * s_t)]
    expected = expected[:, :, chosen]
    weights = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(layer(x), expected)
    for ours, theirs in zip(torch.autograd.grad((layer(x) * weights).sum(), inputs),
                            torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def zero_convolution(layer):
    for parameter in layer.conv.parameters():
        torch.nn.init.zeros_(parameter)
    return layer


# DC-AE's formulas (arXiv:2410.10733, sec. 3.1) for images: pixel_unshuffle and the mean of groups of channels;
# copies of channels and pixel_shuffle.
@pytest.mark.parametrize(("channels", "out_channels"), [(4, 4), (4, 8), (4, 16), (8, 4), (6, 3)])
@torch.no_grad()
def test_downsampling_shortcut_is_that_of_dc_ae_and_averages_frames(channels, out_channels):
    layer = zero_convolution(ResidualDownsample(channels, out_channels, stride=(2, 2, 2), kernel_size=(3, 3, 3)))
    x = torch.randn(2, channels, 5, 6, 4)
    averaged = torch.stack([x[:, :, 0], x[:, :, 1:3].mean(2), x[:, :, 3:5].mean(2)], dim=1)  # (B, t, C, H, W)
    expected = F.pixel_unshuffle(averaged, 2).unflatten(2, (out_channels, -1)).mean(3).movedim(1, 2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("channels", "out_channels"), [(4, 4), (8, 4), (16, 4), (4, 8), (3, 6)])
@torch.no_grad()
def test_upsampling_shortcut_is_that_of_dc_ae_and_repeats_frames(channels, out_channels):
    layer = zero_convolution(ResidualUpsample(channels, out_channels, stride=(2, 2, 2), temporal_kernel=3))
    x = torch.randn(2, channels, 3, 3, 2)
    copies = x.movedim(2, 1).repeat_interleave(4 * out_channels // channels, dim=2)
    frames = F.pixel_shuffle(copies, 2).movedim(1, 2)
    torch.testing.assert_close(layer(x), frames[:, :, [0, 1, 1, 2, 2]])
    torch.testing.assert_close(layer(x[:, :, :1]), frames[:, :, :1])


@torch.no_grad()
def test_shortcuts_of_equal_widths_are_average_pooling_and_nearest_upsampling():
    down = zero_convolution(ResidualDownsample(4, 4, stride=(1, 2, 2), kernel_size=(1, 3, 3)))
    up = zero_convolution(ResidualUpsample(4, 4, stride=(1, 2, 2), temporal_kernel=1))
    x = torch.randn(2, 4, 3, 6, 4)
    torch.testing.assert_close(down(x), F.avg_pool3d(x, (1, 2, 2)))
    torch.testing.assert_close(up(x), F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))


@pytest.mark.parametrize("layer", [ResidualDownsample(4, 8, stride=(2, 2, 2), kernel_size=(3, 3, 3)),
                                   ResidualDownsample(4, 8, stride=(2, 2, 2), kernel_size=(4, 4, 4)),
                                   ResidualUpsample(4, 2, stride=(2, 2, 2), temporal_kernel=3),
                                   ResidualUpsample(4, 2, stride=(2, 2, 2), temporal_kernel=3, kept_frame="first")])
@torch.no_grad()
def test_output_is_the_convolutions_plus_the_shortcuts_whole_and_in_chunks(layer):
    x = torch.randn(1, 4, 9, 6, 4)
    if isinstance(layer, ResidualDownsample):
        convolved = layer.conv(x)
    else:
        plain = DepthToSpaceUpsample(4, out_channels=2, stride=(2, 2, 2), temporal_kernel=3,
                                     kept_frame=layer.kept_frame)
        plain.conv = layer.conv
        convolved = plain(x)
    whole = layer(x)
    saved = [parameter.clone() for parameter in layer.conv.parameters()]
    shortcut = zero_convolution(layer)(x)
    for parameter, value in zip(layer.conv.parameters(), saved, strict=True):
        parameter.copy_(value)
    torch.testing.assert_close(whole, convolved + shortcut, rtol=1e-4, atol=1e-5)
    for chunks in ([1] * 9, [2, 2, 2, 3], [0, 3, 0, 1, 5]):
        cache = {}
        pieces = [layer(chunk, cache) for chunk in x.split(chunks, dim=2)]
        torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [ResidualDownsample(4, 8, stride=(2, 2, 2), kernel_size=(3, 3, 3)),
                                   ResidualUpsample(4, 2, stride=(2, 2, 2), temporal_kernel=3)])
def test_shortcut_stores_no_activation_for_the_backward_pass(layer):
    def stored_bytes(layer, x):
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.update(
                {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()}) or tensor, lambda x: x):
            assert layer(x).requires_grad
        return sum(kept.values())

    x = torch.randn(2, 4, 5, 8, 8)
    assert stored_bytes(layer, x) <= stored_bytes(layer.conv, x)


def test_widths_without_whole_groups_of_channels_are_refused():
    with pytest.raises(ValueError, match=r"ResidualDownsample needs widths.* got 16 channels for 12"):
        ResidualDownsample(4, 12, stride=(1, 2, 2), kernel_size=(3, 3, 3))
    with pytest.raises(ValueError, match=r"ResidualUpsample needs widths.* got 16 channels for 12"):
        ResidualUpsample(12, 4, stride=(1, 2, 2), temporal_kernel=3)


def test_sizes_that_the_stride_does_not_divide_are_refused():
    down = ResidualDownsample(4, 4, stride=(2, 2, 2), kernel_size=(3, 3, 3))
    with pytest.raises(ValueError, match=r"ResidualDownsample needs 1 \+ k \* 2 frames, got 4"):
        down(torch.zeros(1, 4, 4, 8, 8))
    with pytest.raises(ValueError, match=r"ResidualDownsample needs .* multiples of \(2, 2, 2\), got \(2, 7, 8\)"):
        down(torch.zeros(1, 4, 1, 7, 8))
    with pytest.raises(ValueError, match=r"space_to_depth needs .* multiples of \(1, 2, 2\), got \(1, 7, 8\)"):
        space_to_depth(torch.zeros(1, 4, 1, 7, 8), (1, 2, 2))

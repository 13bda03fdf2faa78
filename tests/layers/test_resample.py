"""Upsampling: the order of channels, the frames that are dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from toolkit.layers import DepthToSpaceUpsample, depth_to_space, repeat_nearest

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

"""The causal convolution against torch's own, whole and in chunks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.layers import CausalConv3d

KERNELS = pytest.mark.parametrize("kernel_size", [(3, 3, 3), (1, 3, 3), (1, 1, 1), (4, 3, 1), (4, 4, 4)])
PADDINGS = pytest.mark.parametrize("padding", ["zeros", "replicate"])
STRIDES = pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (3, 1, 1)])


def plain(conv: CausalConv3d, x: torch.Tensor) -> torch.Tensor:
    """The definition: k_t - 1 zero frames (or copies of the first) before it, then torch's convolution."""
    k_t, k_h, k_w = conv.kernel_size
    sides = ((k_w - 1) // 2, k_w // 2, (k_h - 1) // 2, k_h // 2, k_t - 1, 0)
    x = F.pad(x, sides, mode="constant" if conv.fill == "constant" else "replicate")
    return F.conv3d(x, conv.weight, conv.bias, conv.stride)


@KERNELS
@STRIDES
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
@PADDINGS
@torch.no_grad()
def test_causal_conv_is_conv3d_after_padding_frames(kernel_size, stride, frames, bias, padding):
    conv = CausalConv3d(2, 3, kernel_size=kernel_size, stride=stride, bias=bias, padding=padding)
    x = torch.randn(2, 2, frames, 6, 8)
    torch.testing.assert_close(conv(x), plain(conv, x), rtol=1e-5, atol=1e-6)
    assert conv(x).shape[2] == 1 + (frames - 1) // stride[0]


@PADDINGS
def test_gradients_of_a_single_frame_are_those_of_the_full_convolution(padding):
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3), stride=(2, 2, 2), padding=padding)
    x = torch.randn(2, 2, 1, 6, 8, requires_grad=True)
    wanted = torch.autograd.grad(plain(conv, x).square().sum(), [x, conv.weight, conv.bias])
    found = torch.autograd.grad(conv(x).square().sum(), [x, conv.weight, conv.bias])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@KERNELS
@STRIDES
@PADDINGS
@torch.no_grad()
def test_causal_conv_ignores_future_frames(kernel_size, stride, padding):
    conv = CausalConv3d(2, 3, kernel_size=kernel_size, stride=stride, padding=padding)
    x = torch.randn(1, 2, 9, 6, 6)
    for frame in range(1, 9):
        changed = x.clone()
        changed[:, :, frame:] += 1
        earlier = 1 + (frame - 1) // stride[0]  # outputs whose own frame is before the change
        difference = (conv(changed) - conv(x)).abs().amax((0, 1, 3, 4))
        assert not difference[:earlier].any()
        assert difference[earlier:].all()  # the change is large enough to be seen at all


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=6), k_t=st.sampled_from([1, 2, 3, 4]),
       s_t=st.sampled_from([1, 2, 3]), k_h=st.sampled_from([3, 4]), padding=st.sampled_from(["zeros", "replicate"]))
@torch.no_grad()
def test_chunks_of_any_sizes_equal_the_whole_clip(chunks, k_t, s_t, k_h, padding):
    torch.manual_seed(0)
    conv = CausalConv3d(2, 3, kernel_size=(k_t, k_h, 3), stride=(s_t, 2, 2), padding=padding)
    x = torch.randn(1, 2, sum(chunks), 4, 4)
    cache = {}
    outputs = [conv(chunk, cache) for chunk in x.split(chunks, dim=2)]
    torch.testing.assert_close(torch.cat(outputs, dim=2), plain(conv, x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_chunk_that_completes_no_output_yields_none():
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3), stride=(2, 2, 2))
    cache = {}
    assert conv(torch.randn(1, 2, 1, 4, 4), cache).shape == (1, 3, 1, 2, 2)
    assert conv(torch.randn(1, 2, 1, 4, 4), cache).shape == (1, 3, 0, 2, 2)
    assert conv(torch.randn(1, 2, 1, 4, 4), cache).shape == (1, 3, 1, 2, 2)


@torch.no_grad()
def test_stream_keeps_no_more_than_the_frames_it_needs():
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3), stride=(2, 1, 1))
    cache = {}
    for _ in range(5):
        conv(torch.randn(1, 2, 10, 4, 4), cache)
        kept = sum(tensor.untyped_storage().nbytes() for tensor in cache.values())
        assert kept <= 3 * 2 * 4 * 4 * 4  # three frames of two channels, 4x4, four bytes an entry


@torch.no_grad()
def test_two_streams_through_one_convolution_do_not_meet():
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3))
    first, second = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 4, 4, 4)
    caches = {}, {}
    outputs = [[conv(clip[:, :, i:i + 2], cache) for clip, cache in zip((first, second), caches, strict=True)]
               for i in (0, 2)]
    for clip, parts in zip((first, second), zip(*outputs, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts, dim=2), plain(conv, clip), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_stream_may_begin_with_an_empty_chunk():
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3), padding="replicate")
    x, cache = torch.randn(1, 2, 3, 4, 4), {}
    assert conv(x[:, :, :0], cache).shape == (1, 3, 0, 4, 4)
    torch.testing.assert_close(conv(x, cache), plain(conv, x), rtol=1e-5, atol=1e-6)


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="'zeros' or 'replicate', got 'reflect'"):
        CausalConv3d(2, 3, kernel_size=(3, 3, 3), padding="reflect")

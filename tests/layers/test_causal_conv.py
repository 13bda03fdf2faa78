"""The causal convolution against torch's own, whole and in chunks."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from toolkit.layers import CausalConv3d, FrameGroupNorm, ResBlock, norm_silu_conv

KERNELS = pytest.mark.parametrize("kernel_size", [(3, 3, 3), (1, 3, 3), (1, 1, 1), (4, 3, 1), (3, 3, 4), (4, 4, 4)])
PADDINGS = pytest.mark.parametrize("padding", ["zeros", "replicate"])
STRIDES = pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (3, 1, 1)])


def plain(conv: CausalConv3d, x: torch.Tensor) -> torch.Tensor:
    """The definition: k_t - 1 zero frames (or copies of the first) before it, then torch's convolution."""
    k_t, k_h, k_w = conv.kernel_size
    sides = ((k_w - 1) // 2, k_w // 2, (k_h - 1) // 2, k_h // 2, k_t - 1, 0)
    x = F.pad(x, sides, mode="constant" if conv.pad_mode == "constant" else "replicate")
    return F.conv3d(x, conv.weight, conv.bias, conv.stride)


@KERNELS
@STRIDES
@PADDINGS
@pytest.mark.parametrize(("clips", "frames", "height"), [(2, 1, 6), (2, 5, 6), (1, 2, 6), (1, 5, 5), (1, 3, 1)])
@pytest.mark.parametrize(("bias", "normed"), [(True, False), (False, False), (True, True)])
def test_causal_conv_and_its_gradients_are_those_of_conv3d_after_padding(kernel_size, stride, padding, clips, frames,
                                                                         height, bias, normed):
    dtype, assert_close = torch.double, torch.testing.assert_close
    if clips == 1:  # in float32, where it may be convolved in halves
        dtype, assert_close = torch.float, partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    conv = CausalConv3d(4, 3, kernel_size=kernel_size, stride=stride, bias=bias, padding=padding).to(dtype)
    norm = FrameGroupNorm(4, num_groups=2).to(dtype) if normed else None
    x = torch.randn(clips, 4, frames, height, 8, dtype=dtype, requires_grad=True)
    inputs = [x, *conv.parameters(), *(norm.parameters() if normed else ())]
    function = partial(norm_silu_conv, norm, conv) if normed else conv
    output, expected = function(x), plain(conv, F.silu(norm(x)) if normed else x)
    assert_close(output, expected)
    assert output.shape[2] == 1 + (frames - 1) // stride[0]
    with torch.no_grad():
        assert_close(function(x), expected)
    weights = torch.randn_like(output)
    for ours, theirs in zip(torch.autograd.grad((output * weights).sum(), inputs),
                            torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs PyTorch with oneDNN")
@pytest.mark.parametrize(("clips", "channels", "by_im2col"), [  # 20,480 = 10 * 32 * 64
    (1, 10, True), (1, 11, False), (2, 10, False)])
def test_only_clips_that_pytorch_convolves_by_im2col_are_convolved_in_halves(clips, channels, by_im2col):
    conv, x = CausalConv3d(channels, 4, kernel_size=(1, 3, 3)), torch.randn(clips, channels, 32, 64, 70)

    def operators(function):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            function()
        return {event.name: event.input_shapes for event in profiler.events()}

    by_pytorch = operators(lambda: F.conv3d(x, conv.weight, conv.bias, padding=conv.padding))
    assert ("aten::slow_conv3d" in by_pytorch) == by_im2col
    batch_size = operators(lambda: conv(x))["aten::mkldnn_convolution"][0][0]
    assert batch_size == (2 if by_im2col else clips)


@torch.no_grad()
def test_the_cost_of_a_small_clip_is_that_of_the_whole_clip_in_a_dry_run():
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3), bias=False)
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        conv(torch.randn(1, 2, 5, 7, 8))
    assert counter.get_total_flops() == 2 * (2 * 3) * (3 * 3 * 3) * (5 * 7 * 8)


def test_gradients_reach_only_tensors_that_require_them():
    conv, norm = CausalConv3d(4, 3, kernel_size=(3, 3, 3)), FrameGroupNorm(4, num_groups=2)
    x = torch.randn(1, 4, 3, 4, 4)
    norm.weight.requires_grad_(False)
    norm_silu_conv(norm, conv, x).sum().backward()
    assert norm.weight.grad is None and norm.bias.grad.any() and conv.weight.grad.any()
    conv.requires_grad_(False)
    norm.requires_grad_(False)
    assert not norm_silu_conv(norm, conv, x).requires_grad
    norm_silu_conv(norm, conv, x.requires_grad_()).sum().backward()
    assert x.grad.any() and norm.weight.grad is None


@torch.no_grad()
def test_input_is_not_overwritten_when_the_norm_returns_it():
    block = ResBlock(8, 8, temporal_kernel=3, norm=lambda channels: nn.Identity())
    x = torch.randn(1, 8, 5, 6, 8)
    original = x.clone()
    expected = original + plain(block.conv2, F.silu(plain(block.conv1, F.silu(original))))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, original)


@pytest.mark.parametrize("frames", [1, 3])
@PADDINGS
def test_second_derivatives_agree_with_finite_differences(frames, padding):
    conv = CausalConv3d(2, 2, kernel_size=(3, 3, 3), padding=padding).double()
    norm = FrameGroupNorm(2, num_groups=1).double()
    x = torch.randn(1, 2, frames, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, weight: functional_call(conv, {"weight": weight}, x),
                                        (x, conv.weight))
    assert torch.autograd.gradgradcheck(lambda x: norm_silu_conv(norm, conv, x), x)


@pytest.mark.parametrize(("frames", "strict"), [(1, False), (3, False), (3, True)])
def test_export_and_compilation_trace_one_graph(frames, strict):
    block = ResBlock(4, 6, temporal_kernel=3, norm=partial(FrameGroupNorm, num_groups=2))
    x = torch.randn(1, 4, frames, 6, 8, requires_grad=True)
    expected = block(x)
    exported = torch.export.export(block, (x.detach(),), strict=strict)
    assert not any("cat" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    of_x, of_compiled = (torch.autograd.grad(function(x).square().sum(), x)[0] for function in (block, compiled))
    torch.testing.assert_close(of_compiled, of_x, rtol=1e-4, atol=1e-5)


@PADDINGS
@pytest.mark.parametrize("frames", [1, 3])
def test_changed_weights_are_used(padding, frames):
    conv, x = CausalConv3d(2, 3, kernel_size=(3, 3, 3), padding=padding).eval(), torch.randn(1, 2, frames, 6, 8)
    copied, before = copy.deepcopy(conv), conv(x).detach()
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.1, fused=True)  # it leaves the tensors' version as it is
    conv.train()(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(conv.eval()(x), plain(conv, x), rtol=1e-4, atol=1e-5)
        conv.load_state_dict(copied.state_dict())
        torch.testing.assert_close(conv(x), before)
        conv.weight.mul_(2)
        conv.bias.mul_(2)
        torch.testing.assert_close(conv(x), 2 * before)
        conv.weight = torch.nn.Parameter(torch.zeros_like(conv.weight))
        torch.testing.assert_close(conv(x), conv.bias.reshape(1, 3, 1, 1, 1).expand_as(before))
        torch.testing.assert_close(conv.double()(x.double()), plain(conv, x.double()))
        torch.testing.assert_close(copied(x), before)


def stored_bytes(function, *inputs) -> int:
    """What autograd keeps for the backward pass, parameters aside."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function(*inputs)
    assert output.requires_grad
    return sum(kept.values())


def test_a_norm_and_silu_before_the_convolution_are_not_stored():
    conv, norm = CausalConv3d(32, 32, kernel_size=(3, 3, 3)), FrameGroupNorm(32)
    x = torch.randn(1, 32, 5, 16, 16)
    parameters = sum(p.nbytes for p in (*conv.parameters(), *norm.parameters()))
    assert stored_bytes(lambda x: norm_silu_conv(norm, conv, x), x) == x.nbytes
    assert stored_bytes(lambda x: plain(conv, F.silu(norm(x))), x) > 3 * x.nbytes + parameters


@torch.no_grad()
@PADDINGS
def test_an_image_costs_a_two_dimensional_convolution(padding):
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3), padding=padding, bias=False)
    with FlopCounterMode(display=False) as counter:
        conv(torch.randn(1, 2, 1, 6, 8))
    assert counter.get_total_flops() == 2 * (2 * 3) * (3 * 3) * (6 * 8)


@pytest.mark.parametrize("samples", [1, 2])
def test_memory_layout_stays_channels_last(samples):
    conv, norm = CausalConv3d(32, 32, kernel_size=(3, 3, 3)), FrameGroupNorm(32)
    x = torch.randn(samples, 32, 21, 32, 8).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    gradient, = torch.autograd.grad((output := norm_silu_conv(norm, conv, x)).square().sum(), x)
    for tensor in (norm(x), output, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("frames", [1, 5])
def test_autocast_computes_in_half_and_gives_gradients_of_the_parameters_type(frames):
    conv, norm = CausalConv3d(4, 3, kernel_size=(3, 3, 3)), FrameGroupNorm(4, num_groups=2)
    x = torch.randn(1, 4, frames, 6, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = norm_silu_conv(norm, conv, x)
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    inputs = [x, *conv.parameters(), *norm.parameters()]
    expected = torch.autograd.grad(plain(conv, F.silu(norm(x))).square().sum(), inputs)
    for tensor, exact in zip(inputs, expected, strict=True):
        assert tensor.grad.dtype == torch.float32
        torch.testing.assert_close(tensor.grad, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), k_t=st.sampled_from([1, 2, 3, 4]),
       s_t=st.sampled_from([1, 2, 3]), k_h=st.sampled_from([3, 4]), padding=st.sampled_from(["zeros", "replicate"]))
@example(chunks=[0, 3], k_t=3, s_t=1, k_h=3, padding="replicate")  # a stream may begin with an empty chunk
@example(chunks=[1, 1, 1], k_t=3, s_t=2, k_h=3, padding="zeros")  # the second chunk completes no output
@torch.no_grad()
def test_chunks_of_any_sizes_equal_the_whole_clip_in_two_streams_at_once(chunks, k_t, s_t, k_h, padding):
    torch.manual_seed(0)
    conv = CausalConv3d(2, 3, kernel_size=(k_t, k_h, 3), stride=(s_t, 2, 2), padding=padding)
    clips, caches = torch.randn(2, 1, 2, sum(chunks), 4, 4), ({}, {})
    outputs = [[conv(clip, cache) for clip, cache in zip(pair, caches, strict=True)]
               for pair in clips.split(chunks, dim=3)]
    for clip, pieces in zip(clips, zip(*outputs, strict=True), strict=True):
        assert all(piece.shape[3:] == (2, 2) for piece in pieces)
        torch.testing.assert_close(torch.cat(pieces, dim=2), plain(conv, clip), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_stream_keeps_no_more_than_the_frames_it_needs():
    conv = CausalConv3d(2, 3, kernel_size=(3, 3, 3), stride=(2, 1, 1))
    cache = {}
    for _ in range(5):
        conv(torch.randn(1, 2, 10, 4, 4), cache)
        kept = sum(tensor.untyped_storage().nbytes() for tensor, _ in cache.values())
        assert kept <= 3 * 2 * 4 * 4 * 4  # three frames of two channels, 4x4, four bytes an entry


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="'zeros' or 'replicate', got 'reflect'"):
        CausalConv3d(2, 3, kernel_size=(3, 3, 3), padding="reflect")

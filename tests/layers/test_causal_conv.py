"""The causal convolution against torch's own, whole and in chunks."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from toolkit.layers import CausalConv3d, FrameGroupNorm, ResBlock, norm_silu_conv

KERNELS = pytest.mark.parametrize("kernel_size", [(3, 3, 3), (1, 3, 3), (1, 1, 1), (4, 3, 1), (4, 4, 4)])
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
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
@PADDINGS
@torch.no_grad()
def test_causal_conv_is_conv3d_after_padding_frames(kernel_size, stride, frames, bias, padding):
    conv = CausalConv3d(2, 3, kernel_size=kernel_size, stride=stride, bias=bias, padding=padding)
    x = torch.randn(2, 2, frames, 6, 8)
    torch.testing.assert_close(conv(x), plain(conv, x), rtol=1e-5, atol=1e-6)
    assert conv(x).shape[2] == 1 + (frames - 1) // stride[0]


@KERNELS
@STRIDES
@PADDINGS
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("normed", [False, True])
def test_gradients_are_those_of_the_full_convolution(kernel_size, stride, padding, frames, normed):
    torch.manual_seed(0)
    conv = CausalConv3d(4, 3, kernel_size=kernel_size, stride=stride, padding=padding).double()
    norm = FrameGroupNorm(4, num_groups=2).double() if normed else None
    x = torch.randn(2, 4, frames, 6, 8, dtype=torch.double, requires_grad=True)
    inputs = [x, *conv.parameters(), *(norm.parameters() if normed else ())]
    weights = torch.randn_like(conv(x))
    activated = partial(norm_silu_conv, norm, conv) if normed else conv
    expected = torch.autograd.grad((plain(conv, F.silu(norm(x)) if normed else x) * weights).sum(), inputs)
    actual = torch.autograd.grad((activated(x) * weights).sum(), inputs)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


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
def test_validation_sees_weights_updated_by_fused_adam(frames):
    conv, clip = CausalConv3d(3, 4, kernel_size=(3, 3, 3)), torch.randn(1, 3, frames, 8, 8)
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        conv.eval()(clip)
    conv.train()(clip).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(conv.eval()(clip), plain(conv, clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 3])
@PADDINGS
def test_second_derivatives_agree_with_finite_differences(frames, padding):
    conv = CausalConv3d(2, 2, kernel_size=(3, 3, 3), padding=padding).double()
    norm = FrameGroupNorm(2, num_groups=1).double()
    x = torch.randn(1, 2, frames, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, weight: functional_call(conv, {"weight": weight}, x),
                                        (x, conv.weight))
    assert torch.autograd.gradgradcheck(lambda x: norm_silu_conv(norm, conv, x), x)


@pytest.mark.parametrize("frames", [1, 3])
def test_export_and_compilation_trace_one_graph(frames):
    block = ResBlock(4, 6, temporal_kernel=3, norm=partial(FrameGroupNorm, num_groups=2))
    x = torch.randn(1, 4, frames, 6, 8, requires_grad=True)
    expected = block(x)
    torch.testing.assert_close(torch.export.export(block, (x.detach(),)).module()(x), expected, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    of_x, of_compiled = (torch.autograd.grad(function(x).square().sum(), x)[0] for function in (block, compiled))
    torch.testing.assert_close(of_compiled, of_x, rtol=1e-4, atol=1e-5)


@PADDINGS
@torch.no_grad()
def test_an_image_uses_changed_weights(padding):
    conv, frame = CausalConv3d(2, 3, kernel_size=(3, 3, 3), padding=padding).eval(), torch.randn(1, 2, 1, 6, 8)
    copied, before = copy.deepcopy(conv), conv(frame)
    assert torch.equal(conv(frame), before) and torch.equal(copied(frame), before)
    conv.weight.mul_(2)
    conv.bias.mul_(2)
    torch.testing.assert_close(conv(frame), 2 * before)
    conv.load_state_dict(copied.state_dict())
    torch.testing.assert_close(conv(frame), before)
    conv.weight = torch.nn.Parameter(torch.zeros_like(conv.weight))
    torch.testing.assert_close(conv(frame), conv.bias.reshape(1, 3, 1, 1, 1).expand_as(before))
    torch.testing.assert_close(conv.double()(frame.double()), plain(conv, frame.double()))
    torch.testing.assert_close(copied(frame), before)


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
        kept = sum(tensor.untyped_storage().nbytes() for tensor, _ in cache.values())
        assert kept <= 3 * 2 * 4 * 4 * 4  # three frames of two channels, 4x4, four bytes an entry


@torch.no_grad()
def test_two_streams_through_one_convolution_are_independent():
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

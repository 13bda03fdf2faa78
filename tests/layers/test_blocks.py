"""The residual block, attention within frames, and activation checkpointing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from toolkit.layers import FrameAttention, FrameGroupNorm, ResBlock, run_block


def reference(block: ResBlock, x: torch.Tensor) -> torch.Tensor:
    """GN, SiLU, conv, GN, SiLU, conv, plus the input, in plain torch."""

    def norm(layer, x):
        return torch.stack([F.group_norm(frame, layer.num_groups, layer.weight, layer.bias, 1e-5)
                            for frame in x.unbind(2)], dim=2)

    def conv(layer, x):
        k_t, k_h, k_w = layer.weight.shape[2:]
        return F.conv3d(F.pad(x, (k_w // 2, k_w // 2, k_h // 2, k_h // 2, k_t - 1, 0)), layer.weight)

    y = conv(block.conv1, F.silu(norm(block.norm1, x)))
    y = conv(block.conv2, F.silu(norm(block.norm2, y)))
    return y + (x if block.conv1.in_channels == block.conv2.out_channels else conv(block.shortcut, x))


@pytest.mark.parametrize("widths", [(8, 8), (8, 12)])
@pytest.mark.parametrize("temporal_kernel", [1, 3])
@pytest.mark.parametrize("frames", [1, 4])
@torch.no_grad()
def test_block_is_the_papers_formula(widths, temporal_kernel, frames):
    block = ResBlock(*widths, temporal_kernel=temporal_kernel, norm=partial(FrameGroupNorm, num_groups=4))
    x = torch.randn(2, widths[0], frames, 5, 6)
    torch.testing.assert_close(block(x), reference(block, x), rtol=1e-4, atol=1e-5)


def test_block_has_no_bias_but_its_norms():
    block = ResBlock(8, 12, temporal_kernel=3)
    assert {name for name, _ in block.named_parameters() if name.endswith("bias")} == {"norm1.bias", "norm2.bias"}


def test_checkpointing_computes_the_block_twice_with_gradients_enabled_and_changes_no_value_and_no_gradient():
    block, results, calls = ResBlock(8, 12, temporal_kernel=3), [], []
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 8, 3, 4, 4, requires_grad=True)
    for activation_checkpointing in (False, True):
        out = run_block(block, x, activation_checkpointing=activation_checkpointing)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])])
    assert len(calls) == 3
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)
    with torch.no_grad():
        run_block(block, x, activation_checkpointing=True)
    assert len(calls) == 4


def test_checkpointing_changes_no_gradient_of_a_stream():
    block, x = ResBlock(4, 4, temporal_kernel=3), torch.randn(1, 4, 4, 4, 4, requires_grad=True)
    gradients = []
    for activation_checkpointing in (False, True):
        cache = {}
        chunks = [run_block(block, chunk, cache, activation_checkpointing=activation_checkpointing)
                  for chunk in x.split(2, dim=2)]
        gradients.append(torch.autograd.grad(torch.cat(chunks, dim=2).square().sum(), x)[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@torch.no_grad()
def test_attention_is_torchs_with_one_head_on_each_frame():
    layer = FrameAttention(8, norm=partial(FrameGroupNorm, num_groups=2))
    x = torch.randn(2, 8, 3, 4, 5)
    weights = [part.weight.reshape(8, 8) for part in (layer.query, layer.key, layer.value)]
    biases = [part.bias for part in (layer.query, layer.key, layer.value)]
    frames = []
    for frame in x.unbind(2):
        tokens = F.group_norm(frame, 2, eps=1e-5).flatten(2).permute(2, 0, 1)  # (positions, B, C)
        mixed, _ = F.multi_head_attention_forward(
            tokens, tokens, tokens, 8, 1, torch.cat(weights), torch.cat(biases), None, None, False, 0.0,
            layer.out.weight.reshape(8, 8), layer.out.bias, need_weights=False)
        frames.append(frame + mixed.permute(1, 2, 0).reshape(frame.shape))
    torch.testing.assert_close(layer(x), torch.stack(frames, dim=2), rtol=1e-4, atol=1e-5)

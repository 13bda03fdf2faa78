"""Attention within frames, against torch's multi-head attention."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from toolkit.layers import FrameAttention, FrameGroupNorm


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

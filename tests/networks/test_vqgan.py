"""VQGAN's networks: shapes, where they attend, and frames that do not meet."""

from __future__ import annotations

import pytest
import torch

from toolkit.layers import FrameAttention
from toolkit.networks import VQGANDecoder, VQGANEncoder

SMALL = dict(filters=8, z_channels=16, num_groups=4)


@pytest.mark.parametrize(("multipliers", "side"), [((1,), 1), ((1, 2), 2), ((1, 2, 2), 4)])
@torch.no_grad()
def test_grid_is_the_size_divided_by_the_stride(multipliers, side):
    encoder = VQGANEncoder(in_channels=2, out_channels=5, channel_multipliers=multipliers, **SMALL)
    decoder = VQGANDecoder(in_channels=5, out_channels=2, channel_multipliers=multipliers, **SMALL)
    assert encoder.stride == decoder.stride == (1, side, side)
    pixels = torch.randn(1, 2, 3, 2 * side, 3 * side)
    latents = encoder(pixels)
    assert latents.shape == (1, 5, 3, 2, 3) and decoder(latents).shape == pixels.shape


@torch.no_grad()
def test_clip_is_processed_frame_by_frame():
    encoder = VQGANEncoder(channel_multipliers=(1, 2), **SMALL)
    decoder = VQGANDecoder(channel_multipliers=(1, 2), **SMALL)
    clip = torch.randn(2, 3, 3, 8, 8)
    latents = torch.cat([encoder(frame) for frame in clip.split(1, dim=2)], dim=2)
    torch.testing.assert_close(encoder(clip), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder(latents), torch.cat([decoder(z) for z in latents.split(1, dim=2)], dim=2),
                               rtol=1e-4, atol=1e-5)


def attentions(module: torch.nn.Module) -> int:
    return sum(isinstance(part, FrameAttention) for part in module.modules())


def test_default_attention_is_at_the_coarsest_level_and_the_middle():
    encoder = VQGANEncoder(channel_multipliers=(1, 1, 2), num_res_blocks=2, **SMALL)
    assert [attentions(level) for level in encoder.levels] == [0, 0, 2] and attentions(encoder.mid) == 1
    decoder = VQGANDecoder(channel_multipliers=(1, 1, 2), num_res_blocks=3, attention=(True, False, False), **SMALL)
    assert [attentions(level) for level in decoder.levels] == [0, 0, 3]  # from coarse to fine


def test_attention_for_another_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="one attention entry for each of its 2 levels, got 3"):
        VQGANEncoder(channel_multipliers=(1, 2), attention=(True, False, True), **SMALL)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_every_parameter_gets_a_gradient(activation_checkpointing):
    encoder = VQGANEncoder(channel_multipliers=(1, 2), **SMALL)
    decoder = VQGANDecoder(channel_multipliers=(1, 2), **SMALL)
    encoder.activation_checkpointing = decoder.activation_checkpointing = activation_checkpointing
    decoder(encoder(torch.randn(1, 3, 1, 8, 8))).square().mean().backward()
    assert all(p.grad is not None for part in (encoder, decoder) for p in part.parameters())

"""The encoder and decoder: shapes, causality, and images as first frames."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from toolkit.layers import ResBlock
from toolkit.networks import MAGVIT2Decoder, MAGVIT2Encoder

# channel_multipliers, temporal_downsample, stride
LAYOUTS = pytest.mark.parametrize(("multipliers", "downsample", "stride"), [
    ((1,), (), (1, 1, 1)),
    ((1, 2), (False,), (1, 2, 2)),
    ((1, 2), (True,), (2, 2, 2)),
    ((1, 2, 2), (True, False), (2, 4, 4)),
    ((1, 2, 2, 4), (False, True, True), (4, 8, 8)),
    ((1, 1, 2, 2, 4), (False, False, True, True), (4, 16, 16)),
])
SMALL = dict(filters=8, num_groups=2, num_res_blocks=1)


@LAYOUTS
@pytest.mark.parametrize("num_res_blocks", [1, 2])
@torch.no_grad()
def test_grid_is_the_size_divided_by_the_stride(multipliers, downsample, stride, num_res_blocks):
    arguments = dict(channel_multipliers=multipliers, temporal_downsample=downsample) | SMALL
    encoder = MAGVIT2Encoder(out_channels=5, in_channels=2, **arguments | {"num_res_blocks": num_res_blocks})
    decoder = MAGVIT2Decoder(in_channels=5, out_channels=2, **arguments | {"num_res_blocks": num_res_blocks})
    assert encoder.stride == decoder.stride == stride
    t, h, w = 3, 2, 1
    pixels = torch.randn(1, 2, 1 + (t - 1) * stride[0], h * stride[1], w * stride[2])
    latents = encoder(pixels)
    assert latents.shape == (1, 5, t, h, w)
    assert decoder(latents).shape == pixels.shape


@LAYOUTS
@torch.no_grad()
def test_image_is_the_first_frame_of_a_clip(multipliers, downsample, stride):
    encoder = MAGVIT2Encoder(channel_multipliers=multipliers, temporal_downsample=downsample, **SMALL)
    decoder = MAGVIT2Decoder(channel_multipliers=multipliers, temporal_downsample=downsample, **SMALL)
    clip = torch.randn(1, 3, 1 + 2 * stride[0], 2 * stride[1], 2 * stride[2])
    latents = encoder(clip)
    torch.testing.assert_close(encoder(clip[:, :, :1]), latents[:, :, :1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder(latents[:, :, :1]), decoder(latents)[:, :, :1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frame", [1, 4, 5, 8])
@torch.no_grad()
def test_encoder_ignores_future_frames(frame):
    encoder = MAGVIT2Encoder(channel_multipliers=(1, 2, 2), temporal_downsample=(True, True), **SMALL)
    clip = torch.randn(1, 3, 9, 8, 8)
    changed = clip.clone()
    changed[:, :, frame:] += 1
    earlier = 1 + (frame - 1) // 4  # a latent stands for its four last frames, the first for frame 0
    difference = (encoder(changed) - encoder(clip)).abs().amax((0, 1, 3, 4))
    assert difference[:earlier].max() <= 1e-6 and difference[earlier:].min() > 1e-4


@pytest.mark.parametrize("latent", [1, 2])
@torch.no_grad()
def test_decoder_ignores_future_latents(latent):
    decoder = MAGVIT2Decoder(channel_multipliers=(1, 2, 2), temporal_downsample=(True, True), **SMALL)
    codes = torch.randn(1, 18, 3, 2, 2).sign()
    changed = codes.clone()
    changed[:, :, latent:] *= -1
    earlier = 1 + (latent - 1) * 4
    difference = (decoder(changed) - decoder(codes)).abs().amax((0, 1, 3, 4))
    assert difference[:earlier].max() <= 1e-6 and difference[earlier:].min() > 1e-4


@torch.no_grad()
def test_network_without_time_treats_a_clip_frame_by_frame():
    arguments = dict(channel_multipliers=(1, 2), temporal_downsample=(False,), temporal_kernel=1) | SMALL
    encoder, decoder = MAGVIT2Encoder(**arguments), MAGVIT2Decoder(**arguments)
    clip = torch.randn(2, 3, 4, 8, 8)
    frames = [encoder(frame) for frame in clip.split(1, dim=2)]
    torch.testing.assert_close(encoder(clip), torch.cat(frames, dim=2), rtol=1e-4, atol=1e-5)
    codes = torch.cat(frames, dim=2).sign()
    torch.testing.assert_close(decoder(codes), torch.cat([decoder(c) for c in codes.split(1, dim=2)], dim=2),
                               rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_samples_of_a_batch_are_independent():
    encoder = MAGVIT2Encoder(channel_multipliers=(1, 2), temporal_downsample=(True,), **SMALL)
    clips = torch.randn(3, 3, 3, 8, 8)
    alone = torch.cat([encoder(clip) for clip in clips.split(1)])
    torch.testing.assert_close(encoder(clips), alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_memory_layout_does_not_change_the_output():
    encoder = MAGVIT2Encoder(channel_multipliers=(1, 2), temporal_downsample=(True,), **SMALL)
    clip = torch.randn(2, 3, 3, 8, 8)
    expected = encoder(clip)
    last = encoder.to(memory_format=torch.channels_last_3d)(clip.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    arguments = dict(channel_multipliers=(1, 2), temporal_downsample=(True,)) | SMALL
    encoder, decoder = MAGVIT2Encoder(**arguments), MAGVIT2Decoder(**arguments)
    decoder(encoder(torch.randn(1, 3, 3, 8, 8))).square().mean().backward()
    for network in (encoder, decoder):
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("part", [MAGVIT2Encoder, MAGVIT2Decoder])
def test_activation_checkpointing_changes_no_gradient(part, frames):
    network = part(channel_multipliers=(1, 2), temporal_downsample=(True,), **SMALL)
    x = torch.randn(1, network.in_channels, frames, 4, 4)
    gradients = []
    for network.activation_checkpointing in (False, 1, True):
        network.zero_grad()
        network(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for plain, *recomputed in zip(*gradients, strict=True):
        for gradient in recomputed:
            torch.testing.assert_close(plain, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", [MAGVIT2Encoder, MAGVIT2Decoder])
def test_checkpointing_by_level_takes_the_finest_levels(part):
    network = part(channel_multipliers=(1, 2), temporal_downsample=(True,), **SMALL)
    calls = {}
    for name, module in network.named_modules():
        if isinstance(module, ResBlock):
            module.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    network.activation_checkpointing = 1
    network(torch.randn(1, network.in_channels, 3, 4, 4)).sum().backward()
    finest = "levels.0" if part is MAGVIT2Encoder else "levels.1"
    assert len(calls) == 3  # two levels and the middle, a block each
    assert calls == {name: 2 if name.startswith(finest) else 1 for name in calls}


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 3])
def test_compiled_networks_give_the_same_numbers_and_gradients(frames):
    arguments = dict(channel_multipliers=(1, 2), temporal_downsample=(True,)) | SMALL
    encoder, decoder = MAGVIT2Encoder(**arguments), MAGVIT2Decoder(**arguments)
    pixels, results = torch.randn(1, 3, frames, 8, 8), []
    for compiled in (False, True):
        for part in (encoder, decoder) if compiled else ():
            part.compile()
        output = decoder(encoder(pixels))
        parameters = [*encoder.parameters(), *decoder.parameters()]
        results.append([output, *torch.autograd.grad(output.square().mean(), parameters)])
        with torch.no_grad():
            results[-1].append(decoder(encoder(pixels)))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(plain, compiled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 3])
def test_export_traces_the_networks(frames):
    encoder, decoder = (network(channel_multipliers=(1, 2), temporal_downsample=(True,), **SMALL).eval()
                        for network in (MAGVIT2Encoder, MAGVIT2Decoder))
    pixels = torch.randn(1, 3, frames, 8, 8)
    for network, x in ((encoder, pixels), (decoder, encoder(pixels).detach())):
        exported = torch.export.export(network, (x,)).module()
        torch.testing.assert_close(exported(x), network(x), rtol=1e-4, atol=1e-5)


def test_last_layer_is_the_weight_of_the_output_convolution():
    decoder = MAGVIT2Decoder(channel_multipliers=(1, 2), temporal_downsample=(True,), **SMALL)
    with torch.no_grad():
        decoder.last_layer.zero_()
        pixels = decoder(torch.randn(1, 18, 1, 2, 2))
    assert torch.equal(pixels, decoder.conv_out.bias.detach().reshape(1, 3, 1, 1, 1).expand_as(pixels))


@pytest.mark.parametrize("part", [MAGVIT2Encoder, MAGVIT2Decoder])
def test_wrong_number_of_levels_is_refused_with_both_numbers(part):
    with pytest.raises(ValueError, match=rf"{part.__name__}.* 3 levels, got 3; give 2 of True or False"):
        part(channel_multipliers=(1, 2, 2), temporal_downsample=(False, True, True), **SMALL)


def test_encoder_that_halves_time_needs_a_temporal_kernel():
    with pytest.raises(ValueError, match="temporal_kernel > 1 to halve time, got 1"):
        MAGVIT2Encoder(channel_multipliers=(1, 2), temporal_downsample=(True,), temporal_kernel=1, **SMALL)


def test_arguments_are_by_keyword_and_a_typo_fails():
    with pytest.raises(TypeError, match="positional"):
        MAGVIT2Encoder(3)
    with pytest.raises(TypeError, match="num_resblocks"):
        MAGVIT2Encoder(num_resblocks=2)


def test_default_video_network_has_the_size_that_follows_from_the_papers_figure():
    def res_block(a: int, b: int, k_t: int = 3) -> int:
        return 2 * a + 2 * b + 9 * k_t * b * (a + b) + (a * b if a != b else 0)

    with torch.device("meta"):
        found = sum(p.numel() for p in MAGVIT2Encoder().parameters())
    widths = [128, 128, 256, 256, 512]
    levels = sum(res_block(a, b) + 3 * res_block(b, b) for a, b in pairwise(widths))
    strides = sum(27 * c * c + c for c in widths[1:4])
    expected = (27 * 3 * 128 + 128) + levels + strides + 4 * res_block(512, 512) + 2 * 512 + (512 * 18 + 18)
    assert found == expected

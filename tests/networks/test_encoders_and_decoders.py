"""MAGVIT-v2's and VQGAN's networks: shapes, images as first frames, gradients, checkpointing, attention."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from toolkit.contracts import Decoder, Encoder
from toolkit.layers import FrameAttention, ResBlock
from toolkit.networks import MAGVIT2Decoder, MAGVIT2Encoder, VQGANDecoder, VQGANEncoder

# channel_multipliers, temporal_downsample (None: VQGAN's networks, which are 2-D), stride
LAYOUTS = pytest.mark.parametrize(("multipliers", "downsample", "stride"), [
    ((1,), (), (1, 1, 1)),
    ((1, 2), (False,), (1, 2, 2)),
    ((1, 2), (True,), (2, 2, 2)),
    ((1, 2, 2), (True, False), (2, 4, 4)),
    ((1, 2, 2, 4), (False, True, True), (4, 8, 8)),
    ((1, 1, 2, 2, 4), (False, False, True, True), (4, 16, 16)),
    ((1,), None, (1, 1, 1)),
    ((1, 2), None, (1, 2, 2)),
    ((1, 2, 2), None, (1, 4, 4)),
])
SMALL = dict(filters=8, num_groups=2, num_res_blocks=1)
TWO_LEVELS = SMALL | dict(channel_multipliers=(1, 2), temporal_downsample=(True,))
VQGAN = dict(filters=8, z_channels=16, num_groups=4, channel_multipliers=(1, 2))


def pair(multipliers: tuple[int, ...], downsample: tuple[bool, ...] | None, *, in_channels: int = 3,
         out_channels: int = 18, **changes) -> tuple[Encoder, Decoder]:
    if downsample is None:
        networks, arguments = (VQGANEncoder, VQGANDecoder), VQGAN
    else:
        networks, arguments = (MAGVIT2Encoder, MAGVIT2Decoder), SMALL | dict(temporal_downsample=downsample)
    arguments = arguments | dict(channel_multipliers=multipliers) | changes
    return (networks[0](in_channels=in_channels, out_channels=out_channels, **arguments),
            networks[1](in_channels=out_channels, out_channels=in_channels, **arguments))


@LAYOUTS
@pytest.mark.parametrize("num_res_blocks", [1, 2])
@torch.no_grad()
def test_grid_is_the_size_divided_by_the_stride(multipliers, downsample, stride, num_res_blocks):
    encoder, decoder = pair(multipliers, downsample, in_channels=2, out_channels=5, num_res_blocks=num_res_blocks)
    assert encoder.stride == decoder.stride == stride
    t, h, w = 3, 2, 1
    pixels = torch.randn(1, 2, 1 + (t - 1) * stride[0], h * stride[1], w * stride[2])
    latents = encoder(pixels)
    assert latents.shape == (1, 5, t, h, w)
    assert decoder(latents).shape == pixels.shape


@LAYOUTS
@torch.no_grad()
def test_image_is_the_first_frame_of_a_clip(multipliers, downsample, stride):
    encoder, decoder = pair(multipliers, downsample)
    clip = torch.randn(1, 3, 1 + 2 * stride[0], 2 * stride[1], 2 * stride[2])
    latents = encoder(clip)
    torch.testing.assert_close(encoder(clip[:, :, :1]), latents[:, :, :1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder(latents[:, :, :1]), decoder(latents)[:, :, :1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("downsample", "changes"), [((False,), dict(temporal_kernel=1)), (None, {})])
@torch.no_grad()
def test_network_without_time_treats_a_clip_frame_by_frame(downsample, changes):
    encoder, decoder = pair((1, 2), downsample, **changes)
    clip = torch.randn(2, 3, 4, 8, 8)
    latents = torch.cat([encoder(frame) for frame in clip.split(1, dim=2)], dim=2)
    torch.testing.assert_close(encoder(clip), latents, rtol=1e-4, atol=1e-5)
    codes = latents.sign()
    torch.testing.assert_close(decoder(codes), torch.cat([decoder(c) for c in codes.split(1, dim=2)], dim=2),
                               rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_memory_layout_does_not_change_the_output():
    encoder, clip = MAGVIT2Encoder(**TWO_LEVELS), torch.randn(2, 3, 3, 8, 8)
    expected = encoder(clip)
    last = encoder.to(memory_format=torch.channels_last_3d)(clip.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("downsample", [(True,), None])
def test_every_parameter_gets_a_gradient(downsample):
    encoder, decoder = pair((1, 2), downsample)
    decoder(encoder(torch.randn(1, 3, 3, 8, 8))).square().mean().backward()
    for network in (encoder, decoder):  # softmax cancels the bias of attention's keys
        assert [name for name, p in network.named_parameters() if p.grad is None or not (
            p.grad.any() or name.endswith("key.bias"))] == []


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(("part", "arguments"), [(MAGVIT2Encoder, TWO_LEVELS), (MAGVIT2Decoder, TWO_LEVELS),
                                                 (VQGANEncoder, VQGAN), (VQGANDecoder, VQGAN)])
def test_activation_checkpointing_changes_no_gradient(part, arguments, frames):
    network = part(**arguments)
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
    network, calls = part(**TWO_LEVELS), {}
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
    encoder, decoder = MAGVIT2Encoder(**TWO_LEVELS), MAGVIT2Decoder(**TWO_LEVELS)
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
    encoder, decoder = MAGVIT2Encoder(**TWO_LEVELS).eval(), MAGVIT2Decoder(**TWO_LEVELS).eval()
    pixels = torch.randn(1, 3, frames, 8, 8)
    for network, x in ((encoder, pixels), (decoder, encoder(pixels).detach())):
        exported = torch.export.export(network, (x,)).module()
        torch.testing.assert_close(exported(x), network(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_last_layer_is_the_weight_of_the_output_convolution():
    decoder = MAGVIT2Decoder(**TWO_LEVELS)
    decoder.last_layer.zero_()
    pixels = decoder(torch.randn(1, 18, 1, 2, 2))
    assert torch.equal(pixels, decoder.conv_out.bias.reshape(1, 3, 1, 1, 1).expand_as(pixels))


WRONG_LEVELS = dict(channel_multipliers=(1, 2, 2), temporal_downsample=(False, True, True))


@pytest.mark.parametrize(("part", "arguments", "error", "message"), [
    (MAGVIT2Encoder, WRONG_LEVELS, ValueError, "MAGVIT2Encoder.* 3 levels, got 3; give 2 of True or False"),
    (MAGVIT2Decoder, WRONG_LEVELS, ValueError, "MAGVIT2Decoder.* 3 levels, got 3; give 2 of True or False"),
    (MAGVIT2Encoder, TWO_LEVELS | dict(temporal_kernel=1), ValueError, "temporal_kernel > 1 to halve time, got 1"),
    (MAGVIT2Decoder, TWO_LEVELS | dict(adaptive_norm="pooled", norm_scope="position"), ValueError,
     "cannot pool the codes of a single position; set adaptive_norm='position'"),
    (MAGVIT2Decoder, TWO_LEVELS | dict(adaptive_norm="pooled"), ValueError, "cannot pool the codes of a frame"),
    (VQGANEncoder, VQGAN | dict(attention=(True, False, True)), ValueError,
     "one attention entry for each of its 2 levels, got 3"),
    (MAGVIT2Encoder, dict(num_resblocks=2), TypeError, "num_resblocks")])
def test_arguments_that_do_not_fit_are_refused(part, arguments, error, message):
    with pytest.raises(error, match=message):
        part(**arguments)


def test_arguments_are_by_keyword():
    with pytest.raises(TypeError, match="positional"):
        MAGVIT2Encoder(3)


def test_default_video_network_has_the_size_that_follows_from_the_papers_figure():
    def res_block(a: int, b: int, k_t: int = 3) -> int:
        return 2 * a + 2 * b + 9 * k_t * b * (a + b) + (a * b if a != b else 0)

    with torch.device("meta"):
        number = sum(p.numel() for p in MAGVIT2Encoder().parameters())
    widths = [128, 128, 256, 256, 512]
    levels = sum(res_block(a, b) + 3 * res_block(b, b) for a, b in pairwise(widths))
    strides = sum(27 * c * c + c for c in widths[1:4])
    assert number == (27 * 3 * 128 + 128) + levels + strides + 4 * res_block(512, 512) + 2 * 512 + (512 * 18 + 18)


def test_default_attention_is_at_the_coarsest_level_and_the_middle():
    def attentions(module: torch.nn.Module) -> int:
        return sum(isinstance(part, FrameAttention) for part in module.modules())

    arguments = VQGAN | dict(channel_multipliers=(1, 1, 2))
    encoder = VQGANEncoder(num_res_blocks=2, **arguments)
    assert [attentions(level) for level in encoder.levels] == [0, 0, 2] and attentions(encoder.mid) == 1
    decoder = VQGANDecoder(num_res_blocks=3, attention=(True, False, False), **arguments)
    assert [attentions(level) for level in decoder.levels] == [0, 0, 3]  # from coarse to fine

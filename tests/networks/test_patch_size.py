"""MAGVIT-v2's networks on patches of pixels and with shortcuts around resampling."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from toolkit import Tokenizer, load_tokenizer
from toolkit.contracts import Decoder, Encoder
from toolkit.layers import CausalConv3d, HaarPatching
from toolkit.networks import MAGVIT2Decoder, MAGVIT2Encoder
from toolkit.quantizers import LFQ
from toolkit.testing import check_decoder, check_encoder
from toolkit.training.initialization import initialize

SMALL = dict(filters=8, num_groups=2, num_res_blocks=1, channel_multipliers=(1, 2), temporal_downsample=(True,))
OPTIONS = [dict(patch_size=patch_size, patching=patching, resample_shortcuts=shortcuts)
           for patch_size, patching, shortcuts in product(
               (1, 2, (2, 2, 2), (2, 4, 4)), ("haar", "space_to_depth"), (False, True))
           if patch_size != 1 or (shortcuts and patching == "haar")]
CASES = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))


def pair(options: dict, **changes) -> tuple[Encoder, Decoder]:
    arguments = SMALL | options | changes
    return MAGVIT2Encoder(out_channels=4, **arguments), MAGVIT2Decoder(in_channels=4, **arguments)


def tokenizer_of(options: dict, **changes) -> Tokenizer:
    encoder, decoder = pair(options, **changes)
    return Tokenizer(encoder, LFQ(bits=4), decoder).eval()


def patch_sides(options: dict) -> tuple[int, int, int]:
    patch_size = options["patch_size"]
    return (1, patch_size, patch_size) if isinstance(patch_size, int) else patch_size


@CASES
def test_networks_meet_their_contracts(options):
    encoder, decoder = pair(options)
    check_encoder(encoder)
    check_decoder(decoder)


@CASES
@torch.no_grad()
def test_stride_and_sizes_include_the_patch(options):
    p_t, p_h, p_w = patch_sides(options)
    encoder, decoder = pair(options)
    assert encoder.stride == decoder.stride == (2 * p_t, 2 * p_h, 2 * p_w)
    size = (2, 2 * p_h + 1, 1)  # the first frame is a latent of its own; the odd row begins a second row of latents
    assert encoder.grid(size) == (2, 2, 1)
    assert encoder.fitting_size(size) == decoder.pixel_size((2, 2, 1)) == (1 + 2 * p_t, 4 * p_h, 2 * p_w)
    latents = encoder(torch.zeros(1, 3, *encoder.fitting_size(size)))
    assert latents.shape == (1, 4, 2, 2, 1)
    assert decoder(latents).shape == (1, 3, 1 + 2 * p_t, 4 * p_h, 2 * p_w)


@CASES
@torch.no_grad()
def test_streams_in_chunks_of_any_size_equal_the_whole(options):
    encoder, decoder = pair(options)
    pixels = torch.randn(1, 3, *encoder.fitting_size((9, 8, 8)))
    latents = encoder(pixels)
    reconstruction = decoder(latents)
    for length in (1, 2, 3, 5):
        cache = {}
        pieces = [encoder(chunk, cache) for chunk in pixels.split(length, dim=2)]
        torch.testing.assert_close(torch.cat(pieces, dim=2), latents, rtol=1e-4, atol=1e-5)
        for chunks in (pieces, latents.split(length, dim=2)):  # some of the pieces are empty
            cache = {}
            frames = [decoder(chunk, cache) for chunk in chunks]
            torch.testing.assert_close(torch.cat(frames, dim=2), reconstruction, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_streams_with_pooled_codes_equal_the_whole():
    arguments = SMALL | dict(patch_size=(2, 4, 4), temporal_downsample=(False,))
    encoder = MAGVIT2Encoder(out_channels=4, **arguments)
    tokenizer = Tokenizer(encoder, LFQ(bits=4), MAGVIT2Decoder(in_channels=4, adaptive_norm="pooled", **arguments))
    indices = tokenizer.tokenize(torch.rand(1, 3, *encoder.fitting_size((5, 16, 16))))
    pieces = list(tokenizer.detokenize_stream([indices[:, :0], indices[:, :1], indices[:, 1:]]))
    torch.testing.assert_close(torch.cat(pieces, dim=2), tokenizer.detokenize(indices), rtol=1e-4, atol=1e-5)


@CASES
@torch.no_grad()
def test_later_frames_change_no_earlier_latent_and_later_codes_no_earlier_pixel(options):
    encoder, decoder = pair(options)
    s_t = encoder.stride[0]
    pixels = torch.randn(1, 3, *decoder.pixel_size((3, 2, 2)))
    latents, changed = encoder(pixels), pixels.clone()
    changed[:, :, 1 + s_t] += 1  # the first frame of the third latent
    others = encoder(changed)
    torch.testing.assert_close(others[:, :, :2], latents[:, :, :2])
    assert not torch.allclose(others[:, :, 2], latents[:, :, 2])
    codes = torch.randn(1, 4, 3, 2, 2)
    reconstruction, changed = decoder(codes), codes.clone()
    changed[:, :, 2] += 1
    others = decoder(changed)
    torch.testing.assert_close(others[:, :, :1 + s_t], reconstruction[:, :, :1 + s_t])
    assert not torch.allclose(others[:, :, 1 + s_t:], reconstruction[:, :, 1 + s_t:])


@CASES
@torch.no_grad()
def test_image_is_the_first_frame_of_a_clip(options):
    encoder, decoder = pair(options)
    pixels = torch.randn(1, 3, *decoder.pixel_size((2, 2, 2)))
    latents = encoder(pixels)
    torch.testing.assert_close(encoder(pixels[:, :, :1]), latents[:, :, :1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder(latents[:, :, :1]), decoder(latents)[:, :, :1], rtol=1e-4, atol=1e-5)


@CASES
def test_every_parameter_gets_a_gradient(options):
    encoder, decoder = pair(options)
    decoder(encoder(torch.randn(1, 3, *encoder.fitting_size((3, 8, 8))))).square().mean().backward()
    for network in (encoder, decoder):
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@CASES
@torch.no_grad()
def test_saved_tokenizers_keep_the_options(options, tmp_path):
    tokenizer = tokenizer_of(options)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for name in ("encoder", "decoder"):
        assert getattr(loaded, name).config == getattr(tokenizer, name).config
    pixels = torch.randn(1, 3, *tokenizer.fitting_size((3, 8, 8)))
    assert torch.equal(loaded.tokenize(pixels), tokenizer.tokenize(pixels))


@pytest.mark.parametrize("options", [dict(patch_size=2), dict(patch_size=(2, 2, 2), patching="space_to_depth"),
                                     dict(patch_size=4, resample_shortcuts=True)])
def test_no_convolution_runs_at_full_resolution(options):
    encoder, decoder = pair(options)
    pixels, largest = torch.randn(1, 3, *encoder.fitting_size((5, 16, 16))), []
    for module in (*encoder.modules(), *decoder.modules()):
        if isinstance(module, CausalConv3d):
            module.register_forward_hook(lambda _, inputs, output: largest.append(
                max(inputs[0].shape[3], output.shape[3])))
    decoder(encoder(pixels))
    p_h = patch_sides(options)[1]
    assert max(largest) == pixels.shape[3] // p_h


@torch.no_grad()
def test_first_convolution_costs_less_by_its_output_positions():
    def cost(**options) -> int:
        encoder = MAGVIT2Encoder(**SMALL | dict(temporal_kernel=1, temporal_downsample=(False,)), **options)
        with FlopCounterMode(display=False) as counter:
            encoder.conv_in(encoder.patching(torch.zeros(1, 3, 1, 16, 16)))
        return counter.get_total_flops()

    assert cost() == 2 * 3 * 8 * 9 * 16 * 16
    assert cost(patch_size=4) == 2 * (3 * 16) * 8 * 9 * 4 * 4


@torch.no_grad()
def test_zero_output_convolution_gives_the_inverse_patching_of_its_bias():
    _, decoder = pair(dict(patch_size=2))
    decoder.last_layer.zero_()
    decoder.conv_out.bias.copy_(torch.arange(12.0))
    bands = torch.arange(12.0).reshape(1, 12, 1, 1, 1).expand(-1, -1, 3, 4, 4)
    torch.testing.assert_close(decoder(torch.randn(1, 4, 2, 2, 2)), HaarPatching(2).inverse(bands))


@pytest.mark.parametrize("resample_shortcuts", [False, True])
@torch.no_grad()
def test_image_tokenizers_with_the_options_can_be_inflated(resample_shortcuts):
    options = dict(patch_size=2, resample_shortcuts=resample_shortcuts)
    image, video = tokenizer_of(options, temporal_kernel=1, temporal_downsample=(False,)), tokenizer_of(options)
    initialize(video, image)
    pixels = torch.randn(2, 3, 1, 8, 8)
    latents = image.encoder(pixels)
    torch.testing.assert_close(video.encoder(pixels), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(video.decoder(latents), image.decoder(latents), rtol=1e-4, atol=1e-5)
    still = video.encoder(pixels.expand(-1, -1, 5, -1, -1))[:, :, :1]
    torch.testing.assert_close(still, latents, rtol=1e-4, atol=1e-5)


def test_defaults_have_the_tensors_of_the_network_without_options():
    encoder, decoder = pair({})
    again = pair(dict(patch_size=1, patching="space_to_depth"))
    for network, other in zip((encoder, decoder), again, strict=True):
        assert network.patching.patch_size == (1, 1, 1)
        assert {name: p.shape for name, p in network.state_dict().items()} == {
            name: p.shape for name, p in other.state_dict().items()}
    assert encoder.conv_in.weight.shape == (8, 3, 3, 3, 3) and decoder.conv_out.weight.shape == (3, 8, 3, 3, 3)


@pytest.mark.slow
def test_compiled_and_exported_networks_give_the_same_numbers():
    encoder, decoder = (network.eval() for network in pair(dict(patch_size=(2, 2, 2), resample_shortcuts=True)))
    pixels = torch.randn(1, 3, *encoder.fitting_size((5, 8, 8)))
    for network, x in ((encoder, pixels), (decoder, encoder(pixels).detach())):
        expected = network(x)
        exported = torch.export.export(network, (x,)).module()
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    (dict(patch_size=3), r"powers of two, got \(1, 3, 3\)"),
    (dict(patch_size=2.0), r"patch_size p or \(p_t, p_h, p_w\), whole numbers of at least 1, got 2\.0"),
    (dict(patch_size=(2, 2)), r"patch_size p or \(p_t, p_h, p_w\)"),
    (dict(patching="dct"), "takes patching 'haar' or 'space_to_depth', got 'dct'"),
    (dict(resample_shortcuts=True, channel_multipliers=(1, 3)), "widths that divide each other")])
@pytest.mark.parametrize("part", [MAGVIT2Encoder, MAGVIT2Decoder])
def test_options_that_do_not_fit_are_refused(part, options, message):
    with pytest.raises(ValueError, match=message):
        part(**SMALL | options)


def test_clips_that_the_patches_do_not_divide_are_refused():
    encoder, _ = pair(dict(patch_size=(2, 4, 4)))
    with pytest.raises(ValueError, match=r"needs 1 \+ k \* 2 frames, got 2; pad the clip to the network's"):
        encoder(torch.zeros(1, 3, 2, 8, 8))
    with pytest.raises(ValueError, match=r"multiples of \(2, 4, 4\), got \(2, 6, 8\)"):
        encoder(torch.zeros(1, 3, 1, 6, 8))

"""The tokenizer: any size in, the same size out; indices that decode back; a config that builds it again."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from toolkit import build_tokenizer, load_tokenizer
from toolkit.networks import MAGVIT2Decoder, MAGVIT2Encoder
from toolkit.quantizers import LFQ
from toolkit.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(make_tokenizer) -> Tokenizer:
    return make_tokenizer()  # stride 2x4x4


@pytest.fixture(scope="module")
def paper_tokenizer() -> Tokenizer:
    """The paper's video network, stride 4x8x8, without memory."""
    with torch.device("meta"):
        return Tokenizer(MAGVIT2Encoder(), LFQ(), MAGVIT2Decoder())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(t=st.integers(1, 6), h=st.integers(1, 13), w=st.integers(1, 13))
@torch.no_grad()
def test_reconstruction_has_the_size_of_the_input(tokenizer, t, h, w):
    pixels = torch.rand(1, 3, t, h, w) * 2 - 1
    output = tokenizer(pixels)
    indices, size = tokenizer.tokenize(pixels, return_size=True)
    grid = (1 + math.ceil((t - 1) / 2), math.ceil(h / 4), math.ceil(w / 4))
    assert size == (t, h, w) and indices.shape == (1, *grid, 1) and tokenizer.grid(size) == grid
    assert output.reconstruction.shape == pixels.shape
    assert torch.equal(output.indices, indices)
    torch.testing.assert_close(tokenizer.detokenize(indices, size), output.reconstruction)


@torch.no_grad()
def test_odd_sizes_are_padded_by_their_last_frame_row_and_column(tokenizer):
    pixels = torch.rand(2, 3, 4, 6, 7) * 2 - 1
    padded = torch.cat([pixels, pixels[:, :, -1:]], dim=2)
    padded = torch.cat([padded, padded[..., -1:, :].expand(-1, -1, -1, 2, -1)], dim=3)
    padded = torch.cat([padded, padded[..., -1:]], dim=4)
    assert padded.shape[2:] == tokenizer.fitting_size((4, 6, 7)) == (5, 8, 8)
    assert torch.equal(tokenizer.tokenize(pixels), tokenizer.tokenize(padded))
    assert torch.equal(tokenizer(pixels).reconstruction, tokenizer(padded).reconstruction[:, :, :4, :6, :7])


@pytest.mark.parametrize("size", [(1, 4, 4), (3, 8, 12), (5, 16, 4)])
@torch.no_grad()
def test_sizes_that_fit_are_not_padded(tokenizer, size):
    pixels, seen = torch.rand(1, 3, *size) * 2 - 1, []
    tokenizer.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokenizer(pixels)
    tokenizer.encode(pixels)
    assert all(x is pixels for x in seen) and len(seen) == 2
    assert tokenizer.fitting_size(size) == size


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(*[st.integers(1, 70)] * 3))
def test_fitting_size_is_the_smallest_that_fits(paper_tokenizer, size):
    fits = range(1, 80, 4), range(8, 88, 8), range(8, 88, 8)
    assert paper_tokenizer.fitting_size(size) == tuple(min(n for n in fit if n >= s)
                                                       for s, fit in zip(size, fits, strict=True))


@torch.no_grad()
def test_image_is_the_first_frame_of_a_clip(tokenizer):
    clip = torch.rand(1, 3, 5, 8, 8) * 2 - 1
    torch.testing.assert_close(tokenizer.encode(clip[:, :, :1]).codes, tokenizer.encode(clip).codes[:, :, :1])
    assert torch.equal(tokenizer.tokenize(clip[:, :, :1]), tokenizer.tokenize(clip)[:, :1])
    torch.testing.assert_close(tokenizer(clip[:, :, :1]).reconstruction, tokenizer(clip).reconstruction[:, :, :1],
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_codebooks", [1, 3])
@torch.no_grad()
def test_decoding_indices_equals_decoding_codes(make_tokenizer, num_codebooks):
    tokenizer = make_tokenizer(bits=4, num_codebooks=num_codebooks)
    pixels = torch.rand(2, 3, 3, 8, 8) * 2 - 1
    encoded = tokenizer.encode(pixels)
    assert torch.equal(tokenizer.tokenize(pixels), encoded.indices)
    torch.testing.assert_close(tokenizer.detokenize(encoded.indices), tokenizer.decode(encoded.codes))
    assert (tokenizer.codebook_size, tokenizer.num_codebooks, tokenizer.stride) == (16, num_codebooks, (2, 4, 4))


def test_tokenizing_in_train_mode_changes_no_ema_codebook_and_no_mode(make_tokenizer):
    tokenizer = make_tokenizer(quantizer=dict(type="VQ", codebook_size=8, dim=6, update="ema")).train()
    tokenizer.decoder.eval()
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    clips, chunks = torch.rand(2, 3, 5, 8, 8) * 2 - 1, []
    indices = tokenizer.tokenize(clips)
    pixels = tokenizer.detokenize(indices)
    for chunk in tokenizer.tokenize_stream(clips.split(1, dim=2)):
        assert tokenizer.training and tokenizer.encoder.training
        chunks.append(chunk)
    streamed = torch.cat(list(tokenizer.detokenize_stream(chunks)), dim=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tokenizer.state_dict().items())
    assert tokenizer.training and tokenizer.quantizer.training and not tokenizer.decoder.training
    assert torch.equal(indices, tokenizer.eval().tokenize(clips)) and torch.equal(indices, torch.cat(chunks, dim=1))
    torch.testing.assert_close(pixels, tokenizer.detokenize(indices), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(streamed, pixels, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_get_no_indices(tokenizer, value):
    pixels = torch.zeros(1, 3, 3, 8, 8)
    damaged = pixels.clone()
    damaged[0, 1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="Tokenizer needs finite pixels, got NaN or infinity in 1 of 576 elements"):
        tokenizer.tokenize(damaged)
    with torch.no_grad():
        next(tokenizer.encoder.parameters())[0] = value
    with pytest.raises(ValueError, match="Tokenizer needs finite latents of MAGVIT2Encoder"):
        tokenizer.tokenize(pixels)


def test_codebook_that_is_not_finite_is_named(make_tokenizer):
    tokenizer = make_tokenizer(quantizer=dict(type="VQ", codebook_size=8, dim=6))
    with torch.no_grad():
        for parameter in tokenizer.quantizer.parameters():
            parameter[:] = float("nan")
    with pytest.raises(ValueError, match="Tokenizer needs finite codes of VQ"):
        tokenizer.tokenize(torch.zeros(1, 3, 1, 8, 8))


def test_tokenizing_keeps_no_graph_and_training_does(tokenizer):
    pixels = torch.rand(1, 3, 1, 8, 8, requires_grad=True)
    assert not tokenizer.detokenize(tokenizer.tokenize(pixels)).requires_grad
    tokenizer.train()(pixels).reconstruction.sum().backward()
    assert pixels.grad.abs().sum() > 0  # straight through the quantizer


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 8, 8), (1, 4, 1, 8, 8), (1, 1, 3, 8, 8), (1, 3, 0, 8, 8),
                                   (0, 3, 1, 8, 8)])
def test_pixels_of_another_shape_are_refused(tokenizer, shape):
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(ValueError) as error:
            call(torch.zeros(shape))
        assert f"Tokenizer takes pixels (B, 3, T, H, W), got {shape}" in str(error.value)


def test_size_that_the_indices_cannot_fill_is_refused(tokenizer):
    indices = tokenizer.tokenize(torch.zeros(1, 3, 3, 8, 8))
    for size in ((4, 8, 8), (3, 9, 8), (3, 8, 9)):
        with pytest.raises(ValueError, match=r"makes \(T, H, W\) = \(3, 8, 8\) of codes"):
            tokenizer.detokenize(indices, size)


@pytest.mark.parametrize(("encoder", "decoder", "message"), [
    (dict(out_channels=5), dict(in_channels=7),
     r"encoder\.out_channels=5, quantizer\.dim=6, decoder\.in_channels=7"),
    ({}, dict(temporal_downsample=(False, False)), r"one stride, got \(2, 4, 4\) and \(1, 4, 4\)")])
def test_widths_and_strides_that_do_not_match_are_all_named(make_tokenizer, encoder, decoder, message):
    with pytest.raises(ValueError, match=message):
        make_tokenizer(encoder=encoder, decoder=decoder)


def test_continuous_bottleneck_encodes_and_refuses_tokens_by_name(make_tokenizer):
    tokenizer, pixels = make_tokenizer(quantizer=dict(type="Identity", dim=6)), torch.zeros(1, 3, 1, 8, 8)
    assert tokenizer(pixels).indices is None and tokenizer.codebook_size == 0
    with pytest.raises(ValueError, match="discrete quantizer, got Identity"):
        tokenizer.tokenize(pixels)


@torch.no_grad()
def test_config_builds_the_same_tokenizer_again_and_follows_an_exchanged_part(tokenizer):
    again = build_tokenizer(tokenizer.config).eval()
    assert again.config == tokenizer.config
    again.load_state_dict(tokenizer.state_dict())
    pixels = torch.rand(1, 3, 3, 8, 8) * 2 - 1
    assert torch.equal(again(pixels).reconstruction, tokenizer(pixels).reconstruction)
    tokenizer.quantizer = LFQ(bits=3, num_codebooks=2)
    assert tokenizer.config["quantizer"]["bits"] == 3


@torch.no_grad()
def test_deep_copy_keeps_its_config_and_is_independent(tokenizer):
    twin = copy.deepcopy(tokenizer)
    assert twin.config == tokenizer.config
    pixels = torch.rand(1, 3, 1, 8, 8) * 2 - 1
    before = tokenizer(pixels).reconstruction
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(tokenizer(pixels).reconstruction, before)
    assert not twin(pixels).reconstruction.any()


@pytest.mark.parametrize("size", [(1, 8, 8), (4, 7, 9)])
@torch.no_grad()
def test_bfloat16_tokenizer_stays_in_bfloat16(make_tokenizer, size):
    tokenizer = make_tokenizer().to(torch.bfloat16)
    pixels = torch.rand(1, 3, *size, dtype=torch.bfloat16) * 2 - 1
    output = tokenizer(pixels)
    assert {output.reconstruction.dtype, output.latents.dtype, output.codes.dtype} == {torch.bfloat16}
    assert torch.equal(output.indices, tokenizer.tokenize(pixels))
    pixels = tokenizer.detokenize(output.indices, size)
    # The same codes in another memory layout: the rounding of bfloat16 (2^-8) is all that differs.
    assert pixels.dtype == torch.bfloat16
    assert (pixels - output.reconstruction).float().norm() < 2**-5 * output.reconstruction.float().norm()


@torch.no_grad()
def test_weights_are_saved_in_float32_whatever_they_were(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer().to(torch.bfloat16)
    tokenizer.save_pretrained(tmp_path)
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    loaded = load_tokenizer(tmp_path)
    for name, weight in tokenizer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.float())


def test_tokens_under_autocast_are_those_of_float32(make_tokenizer):
    tokenizer, pixels = make_tokenizer(bits=18), torch.rand(2, 3, 3, 32, 32) * 2 - 1
    expected = tokenizer.tokenize(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tokenizer.tokenize(pixels), expected)

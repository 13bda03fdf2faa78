"""The tokenizer takes float pixels in [-1, 1] and integer indices; everything else is refused with what to do."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from toolkit.tokenizer import Tokenizer

SHAPE = (1, 3, 3, 8, 8)
BYTES = (torch.arange(576) % 256).to(torch.uint8).reshape(SHAPE)
BYTES_AS_PIXELS = BYTES / 127.5 - 1
TYPES = {
    "uint8": (BYTES, r"got torch.uint8; x / 127.5 - 1"), "int16": (BYTES.short(), "got torch.int16; x / 127.5 - 1"),
    "int64": (BYTES.long(), "got torch.int64"), "bool": (BYTES > 127, r"got torch.bool; x \* 2.0 - 1"),
    "complex": (BYTES.to(torch.complex64), "got torch.complex64"),
    "NumPy": (BYTES_AS_PIXELS.numpy(), "got numpy.ndarray of float32; .*torch.as_tensor"),
    "NumPy uint8": (BYTES.numpy(), r"got numpy.ndarray of uint8; .*x / 127.5 - 1"),
    "list": (BYTES_AS_PIXELS.tolist(), "got builtins.list; .*torch.as_tensor"),
    "picture": (Image.new("RGB", (8, 8)), "got PIL.Image.Image"), "None": (None, "got builtins.NoneType"),
    "float64": (BYTES_AS_PIXELS.double(), r"torch.float32 on cpu, got torch.float64 on cpu; .*pixels.float\(\)"),
    "float16": (BYTES_AS_PIXELS.half(), r"torch.float32 on cpu, got torch.float16 on cpu; .*pixels.float\(\)"),
    "bfloat16": (BYTES_AS_PIXELS.bfloat16(), r"got torch.bfloat16 on cpu; .*pixels.float\(\)"),
    "device": (BYTES_AS_PIXELS.to("meta"), r"on cpu, got torch.float32 on meta; .*pixels.to\('cpu', torch.float32\)")}
VALUES = {
    "0 to 255": (BYTES.float(), r"takes float pixels in \[-1, 1\], got 0 to 255; x / 127.5 - 1 .*clamp"),
    "0 to 10": (BYTES / 25.5, "takes .* got 0 to 10"),
    "-127 to 128": (BYTES.float() - 127, "takes .* got -127 to 128"),
    "NaN": (BYTES_AS_PIXELS.masked_fill(BYTES == 7, math.nan), "needs finite pixels, got NaN or infinity in 3 of 576"),
    "infinity": (BYTES_AS_PIXELS.masked_fill(BYTES == 7, -math.inf), "needs finite pixels, got .* in 3 of 576")}


@pytest.fixture
def tokenizer(make_tokenizer) -> Tokenizer:
    return make_tokenizer()


def calls(tokenizer: Tokenizer) -> list:
    return [tokenizer, tokenizer.encode, tokenizer.tokenize, lambda pixels: next(tokenizer.tokenize_stream([pixels]))]


@pytest.mark.parametrize("case", TYPES)
def test_pixels_of_another_type_are_refused(tokenizer, case):
    pixels, words = TYPES[case]
    takes = r"^Tokenizer takes float pixels in \[-1, 1\] of the weights' dtype"
    for call in (*calls(tokenizer), copy.deepcopy(tokenizer).train()):
        with pytest.raises(ValueError, match=f"{takes}.*{words}"):
            call(pixels)


@pytest.mark.parametrize("case", VALUES)
def test_pixels_out_of_range_are_refused(tokenizer, case):
    pixels, words = VALUES[case]
    for call in calls(tokenizer):
        with pytest.raises(ValueError, match=f"^Tokenizer {words}"):
            call(pixels)


def test_a_later_chunk_out_of_range_is_refused(tokenizer):
    stream = tokenizer.tokenize_stream([BYTES_AS_PIXELS, BYTES.float()])
    assert next(stream).shape == (1, 2, 2, 2, 1)
    with pytest.raises(ValueError, match="got 0 to 255"):
        next(stream)


@pytest.mark.parametrize("mode", ["bicubic", "lanczos"])
def test_a_resized_pictures_overshoot_is_taken(tokenizer, mode):
    corner = torch.full((1, 3, 16, 16), -1.0)
    corner[..., 8:, 8:] = 1
    if mode == "lanczos":
        resized = np.stack([Image.fromarray(x.numpy()).resize((32, 32), Image.Resampling.LANCZOS) for x in corner[0]])
        pixels = torch.from_numpy(resized)[None]
    else:
        pixels = F.interpolate(corner, (32, 32), mode=mode)
    assert 1.1 < pixels.abs().max() < 2
    assert tokenizer.tokenize(pixels[:, :, None]).shape == (1, 1, 8, 8, 1)


def test_training_reads_no_values(tokenizer):
    pixels = BYTES_AS_PIXELS.masked_fill(BYTES == 7, math.nan)
    assert tokenizer.train()(pixels).reconstruction.isnan().any()  # the trainer skips such steps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_a_tokenizer_of_another_dtype_takes_its_own(tokenizer, dtype):
    tokenizer.to(dtype)
    indices = tokenizer.tokenize(BYTES_AS_PIXELS.to(dtype))
    assert tokenizer(BYTES_AS_PIXELS.to(dtype)).reconstruction.dtype == tokenizer.detokenize(indices).dtype == dtype
    with pytest.raises(ValueError, match=rf"{dtype} on cpu, got torch.float32 on cpu; .*pixels.to\({dtype}\)"):
        tokenizer.tokenize(BYTES_AS_PIXELS)
    with pytest.raises(ValueError, match="got 0 to 255"):
        tokenizer.tokenize(BYTES.to(dtype))


@torch.no_grad()
def test_under_autocast_forward_takes_half_precision_and_tokens_do_not(tokenizer):
    half = BYTES_AS_PIXELS.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tokenizer(half).reconstruction.shape == tokenizer(BYTES_AS_PIXELS).reconstruction.shape == SHAPE
        assert tokenizer.encode(half).indices.shape == (1, 2, 2, 2, 1)
        for call in (tokenizer.tokenize, lambda pixels: next(tokenizer.tokenize_stream([pixels]))):
            with pytest.raises(ValueError, match=r"got torch.bfloat16"):
                call(half)
        with pytest.raises(ValueError, match=r"got torch.float64"):
            tokenizer(half.double())


@torch.no_grad()
def test_weights_of_several_dtypes_take_any_of_theirs(tokenizer):
    class Casting(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder, self.scale = encoder, nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, pixels, cache=None):
            return self.encoder((self.scale * pixels).float(), cache)

        def __getattr__(self, name):
            return super().__getattr__(name) if name in ("encoder", "scale") else getattr(self.encoder, name)

    expected = tokenizer.tokenize(BYTES_AS_PIXELS)
    tokenizer.encoder = Casting(tokenizer.encoder)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(tokenizer.tokenize(BYTES_AS_PIXELS.to(dtype)), expected)
    with pytest.raises(ValueError, match=r"got torch.float16"):
        tokenizer.tokenize(BYTES_AS_PIXELS.half())


def test_tensors_without_values_are_not_read(tokenizer):
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert tokenizer(torch.empty(SHAPE)).reconstruction.shape == SHAPE
    assert tokenizer.to("meta")(torch.empty(SHAPE, device="meta")).reconstruction.shape == SHAPE


# indices


def indices_of(tokenizer: Tokenizer) -> Tensor:
    return tokenizer.tokenize(BYTES_AS_PIXELS)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32,
                                   torch.uint64])
def test_indices_of_every_integer_dtype_decode_alike(tokenizer, dtype):
    indices = indices_of(tokenizer)
    assert torch.equal(tokenizer.detokenize(indices.to(dtype)), tokenizer.detokenize(indices))


INDICES = {
    "list": (lambda x: x.tolist(), "needs integer indices as a torch.Tensor, got list; torch.as_tensor"),
    "NumPy": (lambda x: x.numpy(), "needs integer indices as a torch.Tensor, got ndarray"),
    "number": (lambda x: 3, "needs integer indices as a torch.Tensor, got int"),
    "float": (lambda x: x.float(), r"needs integer indices \(B, t, h, w, 1\), got .* of torch.float32"),
    "bool": (lambda x: x > 0, "needs integer indices .* of torch.bool"),
    "complex": (lambda x: x.to(torch.complex64), "needs integer indices .* of torch.complex64"),
    "scalar": (lambda x: x[0, 0, 0, 0, 0], r"needs integer indices .* got \(\)"),
    "no batch": (lambda x: x[0], r"needs integer indices .* got \(2, 2, 2, 1\)"),
    "two codebooks": (lambda x: torch.cat([x, x], dim=-1), r"needs integer indices .* got \(1, 2, 2, 2, 2\)"),
    "negative": (lambda x: -x - 1, r"needs indices in \[0, 64\), got"),
    "too large": (lambda x: x + 64, r"needs indices in \[0, 64\), got"),
    "beyond int64": (lambda x: (x - 2**63).view(torch.uint64), r"needs indices in \[0, 64\), got"),
    "device": (lambda x: x.to("meta"), r"needs indices on cpu, where its weights are, got meta; indices.to\('cpu'\)")}


@pytest.mark.parametrize("case", INDICES)
def test_other_indices_are_refused(tokenizer, case):
    change, words = INDICES[case]
    indices = change(indices_of(tokenizer))
    for call in (tokenizer.detokenize, lambda chunk: next(tokenizer.detokenize_stream([chunk]))):
        with pytest.raises(ValueError, match=f"^LFQ {words}"):
            call(indices)


def test_indices_given_to_decode_and_integers_given_to_a_quantizer_are_refused(tokenizer):
    indices = indices_of(tokenizer)
    with pytest.raises(ValueError, match=r"decode takes float codes \(B, 6, t, h, w\), got \(1, 2, 2, 2, 1\) of "
                                         r"torch.int64; detokenize takes indices"):
        tokenizer.decode(indices)
    for latents in (torch.zeros(1, 6, 1, 2, 2, dtype=torch.int64), np.zeros((1, 6, 1, 2, 2), dtype=np.float32)):
        with pytest.raises(ValueError, match="LFQ needs latents"):
            tokenizer.quantizer(latents)


@pytest.mark.parametrize("shape", [(0, 2, 2, 2, 1), (1, 0, 2, 2, 1), (1, 2, 2, 0, 1)])
def test_indices_of_no_position_are_refused(tokenizer, shape):
    with pytest.raises(ValueError, match=rf"detokenize takes indices of one position at least, .*\({shape[0]}, "):
        tokenizer.detokenize(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("size", [(8, 8), (3, 8, 8, 3), (3.0, 8, 8), (None, 8, 8), 8, "388", True])
def test_sizes_that_are_not_three_whole_numbers_are_refused(tokenizer, size):
    indices = indices_of(tokenizer)
    codes = tokenizer.quantizer.codes_from_indices(indices)
    for call in (lambda: tokenizer.detokenize(indices, size), lambda: tokenizer.decode(codes, size),
                 lambda: next(tokenizer.detokenize_stream([indices], size))):
        with pytest.raises(ValueError, match=r"takes a size of three whole numbers \(T, H, W\), got"):
            call()


@pytest.mark.parametrize("size", [[3, 8, 7], torch.Size([3, 8, 7]), np.array([3, 8, 7]), torch.tensor([3, 8, 7])])
def test_sizes_of_every_container_crop_alike(tokenizer, size):
    indices = indices_of(tokenizer)
    assert torch.equal(tokenizer.detokenize(indices, size), tokenizer.detokenize(indices, (3, 8, 7)))


def test_a_chunk_of_indices_of_another_video_is_refused(tokenizer):
    indices = indices_of(tokenizer)
    for other in (indices[:, :, :1], indices.expand(2, -1, -1, -1, -1)):
        with pytest.raises(ValueError, match=r"chunks of one video, got .* after \(B, h, w, G\) = \(1, 2, 2, 1\)"):
            list(tokenizer.detokenize_stream([indices, other]))


@pytest.mark.parametrize("size", [(0, 8, 8), (-1, 8, 8), (3, -2, 8)])
def test_sizes_below_1_are_refused(tokenizer, size):
    with pytest.raises(ValueError, match="cannot be cropped to"):
        tokenizer.detokenize(indices_of(tokenizer), size)


@pytest.mark.parametrize(("size", "words"), [
    ((3, 9, 8), r"from \(1, 1\) to \(8, 8\) .* got \(9, 8\)"), ((3, 8, 0), r"got \(8, 0\)"),
    ((4, 8, 8), "needs chunks of 4 frames, as size says, got 3 frames")])
def test_a_stream_that_does_not_fill_the_size_is_refused(tokenizer, size, words):
    with pytest.raises(ValueError, match=words):
        list(tokenizer.detokenize_stream(indices_of(tokenizer).split(1, dim=1), size))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_give_no_pixels(tokenizer, value):
    indices = indices_of(tokenizer)
    with torch.no_grad():
        tokenizer.decoder.last_layer[0] = value
    for call in (tokenizer.detokenize, lambda chunk: next(tokenizer.detokenize_stream([chunk]))):
        with pytest.raises(ValueError, match="Tokenizer needs finite pixels of MAGVIT2Decoder, got NaN or infinity in"):
            call(indices)


@pytest.mark.parametrize("quantizer", [
    dict(type="LFQ", bits=6), dict(type="BSQ", bits=6), dict(type="FSQ", levels=[8, 5, 5]),
    dict(type="VQ", codebook_size=8, dim=4), dict(type="IBQ", codebook_size=8, dim=4),
    dict(type="Residual", quantizers=[dict(type="LFQ", bits=4)] * 2),
    dict(type="Grouped", quantizers=[dict(type="BSQ", bits=3)] * 2)], ids=lambda config: config["type"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_that_are_not_finite_get_no_indices_of_any_quantizer(make_tokenizer, quantizer, value):
    tokenizer = make_tokenizer(quantizer=quantizer)
    with torch.no_grad():
        tokenizer.encoder.conv_out.bias[0] = value
    for call in (tokenizer.tokenize, lambda pixels: next(tokenizer.tokenize_stream([pixels]))):
        with pytest.raises(ValueError, match="Tokenizer needs finite latents of MAGVIT2Encoder"):
            call(BYTES_AS_PIXELS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_codes_of_another_type_than_the_weights_are_refused(tokenizer, dtype):
    codes = torch.ones(1, tokenizer.quantizer.dim, 1, 2, 2)
    assert tokenizer.decode(codes).shape == (1, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=rf"^Tokenizer.decode takes codes of .*got {dtype} on cpu; .*codes.float\(\)"):
        tokenizer.decode(codes.to(dtype))

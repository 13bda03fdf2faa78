"""Streaming: the tokens and pixels of a video do not depend on its chunks."""

from __future__ import annotations

import os

import pytest
import torch
from peak_memory import KEEP_NOTHING, peak_of

CHUNKS = pytest.mark.parametrize("chunks", [[1] * 18, [4] * 4 + [2], [5, 5, 5, 3], [16, 2], [1, 7, 2, 8], [18]])
OPTIONS = pytest.mark.parametrize("options", [
    {}, dict(padding="replicate", encoder=dict(downsample_kernel=4, first_conv_bias=False)), dict(norm_eps=1e-3),
    dict(norm_scope="position")],
    ids=str)


def test_stream_refuses_pixels_that_are_not_finite(make_tokenizer):
    video = torch.zeros(1, 3, 5, 8, 8)
    video[:, :, 3, 2, 2] = float("nan")
    stream = make_tokenizer().tokenize_stream(video.split(1, dim=2))
    assert next(stream).shape == (1, 1, 2, 2, 1)
    with pytest.raises(ValueError, match="Tokenizer needs finite pixels"):
        list(stream)


@CHUNKS
@OPTIONS
@torch.no_grad()
def test_chunks_give_the_tokens_and_pixels_of_the_clip(make_tokenizer, chunks, options):
    tokenizer = make_tokenizer(temporal_downsample=(True, True), **options)
    video = torch.rand(2, 3, 18, 14, 18) * 2 - 1  # fits the stride in no axis
    whole, size = tokenizer.tokenize(video, return_size=True)
    indices = torch.cat(list(tokenizer.tokenize_stream(video.split(chunks, dim=2))), dim=1)
    padded = tokenizer._pad(video)
    latents, cache = tokenizer.encoder(padded), {}
    pieces = [*chunks, padded.shape[2] - video.shape[2]]
    torch.testing.assert_close(torch.cat([tokenizer.encoder(x, cache) for x in padded.split(pieces, dim=2)], dim=2),
                               latents, rtol=0, atol=1e-5)
    undecided = latents.abs().amin(1, keepdim=True).movedim(1, -1) < 1e-5
    assert torch.equal(indices[~undecided], whole[~undecided])
    for pieces in ([1] * whole.shape[1], [2, whole.shape[1] - 2]):
        pixels = torch.cat(list(tokenizer.detokenize_stream(whole.split(pieces, dim=1), size)), dim=2)
        torch.testing.assert_close(pixels, tokenizer.detokenize(whole, size), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_stream_of_an_image_tokenizer_is_its_frames(make_tokenizer):
    tokenizer = make_tokenizer(temporal_kernel=1, temporal_downsample=(False, False))
    video = torch.rand(1, 3, 3, 8, 8)
    indices = torch.cat(list(tokenizer.tokenize_stream(video.split(1, dim=2))), dim=1)
    assert torch.equal(indices, torch.cat([tokenizer.tokenize(frame) for frame in video.split(1, dim=2)], dim=1))


def test_network_with_clip_wide_norms_cannot_stream(make_tokenizer):
    tokenizer = make_tokenizer(norm_scope="clip")
    assert not tokenizer.encoder.causal and not tokenizer.decoder.causal
    with pytest.raises(ValueError, match=r"MAGVIT2Encoder is not causal.*norm_scope='clip'"):
        next(tokenizer.tokenize_stream([torch.zeros(1, 3, 5, 8, 8)]))
    with pytest.raises(ValueError, match="MAGVIT2Decoder is not causal"):
        next(tokenizer.detokenize_stream([torch.zeros(1, 1, 2, 2, 1, dtype=torch.int64)]))


@pytest.mark.parametrize(("shape", "words"), [
    ((1, 1, 3, 8, 8), r"takes pixels \(B, 3, T, H, W\), got \(1, 1, 3, 8, 8\)"), ((3, 3, 8, 8), "takes pixels"),
    ((1, 3, 3, 16, 8), r"takes chunks of one video, got \(1, 3, 3, 16, 8\) after")])
def test_a_chunk_of_another_shape_is_refused(make_tokenizer, shape, words):
    with pytest.raises(ValueError, match=words):
        list(make_tokenizer().tokenize_stream([torch.zeros(1, 3, 5, 8, 8), torch.zeros(shape)]))


def test_empty_stream_yields_nothing(make_tokenizer):
    assert list(make_tokenizer().tokenize_stream([])) == list(make_tokenizer().detokenize_stream([])) == []


MEMORY = """
import sys
import torch
from toolkit import build_tokenizer

torch.set_num_threads(1)
network = dict(filters=8, channel_multipliers=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True),
               num_groups=4)
tokenizer = build_tokenizer(dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=6),
                                 decoder=dict(type="MAGVIT2Decoder", **network))).eval()
total = int(sys.argv[1])
chunks = (torch.rand(1, 3, min(32, total - done), 64, 64) * 2 - 1 for done in range(0, total, 32))
frames = sum(pixels.shape[2] for pixels in tokenizer.detokenize_stream(tokenizer.tokenize_stream(chunks)))
print(frames)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length():
    peaks = {}
    for frames in (100, 5000):
        peaks[frames], made = peak_of(frames, code=MEMORY, env=os.environ | KEEP_NOTHING)
        assert int(made) == 1 + -(-(frames - 1) // 4) * 4  # padded to the stride
    assert peaks[5000] < 1.1 * peaks[100], peaks

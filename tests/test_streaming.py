"""A video in chunks: the same tokens and pixels as in one piece, or a reason why not."""

from __future__ import annotations

import pytest
import torch

CHUNKS = pytest.mark.parametrize("chunks", [[1] * 18, [4] * 4 + [2], [5, 5, 5, 3], [16, 2], [1, 7, 2, 8], [18]])
OPTIONS = pytest.mark.parametrize("options", [
    {}, dict(padding="replicate", downsample_kernel=4, first_conv_bias=False), dict(norm_eps=1e-3)], ids=str)


def build(make_tokenizer, options):
    tokenizer = make_tokenizer(temporal_downsample=(True, True))
    if options:
        from toolkit import build_tokenizer

        config = tokenizer.config
        shared = {key: value for key, value in options.items() if key in ("padding", "norm_eps")}
        tokenizer = build_tokenizer(dict(encoder=config["encoder"] | options, quantizer=config["quantizer"],
                                         decoder=config["decoder"] | shared)).eval()
    return tokenizer


@CHUNKS
@OPTIONS
@torch.no_grad()
def test_chunks_give_the_tokens_and_pixels_of_the_whole(make_tokenizer, chunks, options):
    tokenizer = build(make_tokenizer, options)
    video = torch.rand(2, 3, 18, 14, 18) * 2 - 1  # fits the stride in no axis
    whole, size = tokenizer.tokenize(video, return_size=True)
    indices = torch.cat(list(tokenizer.tokenize_stream(video.split(chunks, dim=2))), dim=1)
    undecided = tokenizer.encoder(tokenizer._pad(video)).abs().amin(1, keepdim=True).movedim(1, -1) < 1e-5
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


def test_network_with_clip_wide_norms_says_why_it_cannot_stream(make_tokenizer):
    tokenizer = make_tokenizer(norm_scope="clip")
    assert not tokenizer.encoder.causal and not tokenizer.decoder.causal
    with pytest.raises(ValueError, match=r"MAGVIT2Encoder is not causal.*norm_scope='clip'"):
        next(tokenizer.tokenize_stream([torch.zeros(1, 3, 5, 8, 8)]))
    with pytest.raises(ValueError, match="MAGVIT2Decoder is not causal"):
        next(tokenizer.detokenize_stream([torch.zeros(1, 1, 2, 2, 1, dtype=torch.int64)]))


def test_empty_stream_yields_nothing(make_tokenizer):
    assert list(make_tokenizer().tokenize_stream([])) == list(make_tokenizer().detokenize_stream([])) == []


def test_causal_network_without_a_cache_says_what_it_lacks(make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer()
    monkeypatch.setattr(tokenizer.encoder, "forward", lambda pixels: None)
    with pytest.raises(ValueError, match="MAGVIT2Encoder takes no cache"):
        next(tokenizer.tokenize_stream([torch.zeros(1, 3, 5, 8, 8)]))

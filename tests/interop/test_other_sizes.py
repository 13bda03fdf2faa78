"""Converted tokenizers at sizes other than those they were made for."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from interop.foreign import CASES, close, foreign, taming_names

from toolkit.interop import convert_tensors
from toolkit.testing import check_decoder, check_encoder
from toolkit.tokenizer import Tokenizer

CAUSAL = ["o2_video_tiny", "praxis_video_tiny"]
IMAGE = ["o2_image_tiny", "open_magvit2_image_tiny", "llamagen_vq_tiny", "taming"]
ALL = [*CASES, "taming"]


@cache
def converted(name: str) -> Tokenizer:
    if name == "taming":
        return convert_tensors(taming_names(foreign("llamagen_vq_tiny").tensors), "taming").tokenizer
    return convert_tensors(foreign(name).tensors).tokenizer


def noise(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, *size) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(1, 32, 32), (4, 31, 33), (2, 17, 40), (6, 5, 9), (3, 1, 1), (1, 1, 23)])
def test_reconstructions_of_any_size_have_that_size_and_indices_the_grid(name, size):
    tokenizer, pixels = converted(name), noise(*size)
    output = tokenizer(pixels)
    assert output.reconstruction.shape == pixels.shape
    assert output.reconstruction.isfinite().all() and output.latents.isfinite().all()
    frames, (s_t, s_h, s_w) = size[0], tokenizer.stride
    grid = (1 + -(-(frames - 1) // s_t), -(-size[1] // s_h), -(-size[2] // s_w))
    indices, kept = tokenizer.tokenize(pixels, return_size=True)
    assert tuple(indices.shape) == (1, *grid, 1)
    close(tokenizer.detokenize(indices, kept), output.reconstruction)


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_one_latent_position_is_finite_and_so_are_its_gradients(name):
    tokenizer = converted(name)
    # Two images: torch refuses to normalise a group of a single value, as these have with 32 channels in 32 groups.
    pixels = noise(1, *tokenizer.stride[1:], batch=2).requires_grad_()
    with torch.enable_grad():
        output = tokenizer(pixels)
        gradients = torch.autograd.grad(output.reconstruction.square().sum() + output.latents.sum(),
                                        [pixels, *tokenizer.decoder.parameters()])
    assert output.indices.shape == (2, 1, 1, 1, 1)
    assert output.reconstruction.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@torch.no_grad()
@pytest.mark.parametrize("name", IMAGE)
def test_clip_through_an_image_model_gives_what_its_frames_give_alone(name):
    tokenizer, clip = converted(name), noise(4, 24, 36, batch=2)
    output = tokenizer(clip)
    alone = [tokenizer(clip[:, :, i:i + 1]) for i in range(4)]
    close(output.latents, torch.cat([frame.latents for frame in alone], 2))
    assert torch.equal(output.indices, torch.cat([frame.indices for frame in alone], 1))
    close(output.reconstruction, torch.cat([frame.reconstruction for frame in alone], 2))


@torch.no_grad()
@pytest.mark.parametrize("name", CAUSAL)
def test_image_through_a_causal_video_model_gives_what_the_first_frame_of_a_clip_gives(name):
    tokenizer, clip = converted(name), noise(5, 24, 36)
    image, whole = tokenizer(clip[:, :, :1]), tokenizer(clip)
    close(image.latents, whole.latents[:, :, :1])
    assert torch.equal(image.indices, whole.indices[:, :1])
    close(image.reconstruction, whole.reconstruction[:, :, :1])


@torch.no_grad()
def test_clip_norms_of_open_magvit2_see_the_whole_clip():
    tokenizer, clip = converted("open_magvit2_video_tiny"), noise(5, 16, 16)
    assert not tokenizer.encoder.causal
    changed = clip.clone()
    changed[:, :, 4:] = 0
    assert not torch.allclose(tokenizer(clip).latents[:, :, 0], tokenizer(changed).latents[:, :, 0], atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_converted_networks_meet_their_contracts(name):
    """Among them: samples of a batch are independent, and a stream gives what the whole clip gives."""
    check_encoder(converted(name).encoder)
    check_decoder(converted(name).decoder)

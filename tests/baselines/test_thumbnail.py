import math

import pytest
import torch
import torch.nn.functional as F

from toolkit.baselines.thumbnail import MeanColour, Thumbnail, image_grid, quantize_uniform, share_bits


@pytest.mark.parametrize("bits", range(1, 31))
def test_bits_are_shared_out_completely_and_evenly(bits: int):
    shares = share_bits(bits)
    assert sum(shares) == bits and max(shares) - min(shares) <= 1


def test_uniform_quantizer_is_off_by_half_a_level_at_most():
    x = torch.rand(2, 3, 4, 5, 6)
    rounded, indices = quantize_uniform(x, (6, 5, 4))
    for channel, bits in enumerate((6, 5, 4)):
        assert (rounded - x)[:, channel].abs().max() <= 0.5 / (2**bits - 1) + 1e-6
    assert indices.shape == (2, 4, 5, 6, 1) and 0 <= indices.min() and indices.max() < 2**15


def thumbnail(clip: torch.Tensor, *, grid: tuple[int, int, int], bits: int, **options) -> Thumbnail:
    size = tuple(clip.shape[2:])
    return Thumbnail(bits_per_pixel=bits * math.prod(grid) / math.prod(size), size=size, grid=grid, **options)


def test_thumbnail_equals_pool_round_and_bicubic_of_each_group_of_frames():
    clip = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    reconstruction, _ = thumbnail(clip, grid=(2, 2, 2), bits=24)(clip)
    for frames in (slice(0, 1), slice(1, 5)):  # the first frame alone, then four together
        cells = F.avg_pool2d((clip[:, :, frames].mean(2) + 1) / 2, 8)
        wanted = F.interpolate((cells * 255).round() / 255, size=(16, 16), mode="bicubic").clamp(0, 1) * 2 - 1
        for t in range(5)[frames]:
            assert torch.allclose(reconstruction[:, :, t], wanted, atol=1e-5)


def test_mean_colour_leaves_each_frames_variance_as_its_error():
    clip = torch.rand(1, 3, 2, 32, 32) * 2 - 1
    reconstruction, indices = MeanColour()(clip)
    variance = clip.var((3, 4), unbiased=False)
    assert torch.allclose((reconstruction - clip).square().mean((3, 4)), variance, atol=1e-4)
    assert indices.shape == (1, 2, 1, 1, 1) and math.log2(MeanColour.codebook_size) == 24


@pytest.mark.parametrize(("shape", "grid", "bits", "expected"), [
    ((1, 3, 9, 24, 17), (3, 3, 3), 18, (1, 3, 3, 3, 1)),
    ((2, 3, 1, 32, 64), (1, 1, 128), 12, (2, 1, 8, 16, 1))])  # a sequence of latents: cells of 4 x 4 pixels
def test_thumbnail_of_a_flat_clip_is_its_colour_within_quantization(shape, grid, bits, expected):
    clip = torch.tensor([-0.5, 0.0, 0.7]).view(1, 3, 1, 1, 1).expand(shape)
    codec = thumbnail(clip, grid=grid, bits=bits)
    reconstruction, indices = codec(clip)
    assert codec.codebook_size == 2**bits
    assert reconstruction.shape == clip.shape and indices.shape == expected
    assert (reconstruction - clip).abs().max() <= 2 * 0.5 / (2 ** (bits / 3) - 1) + 1e-5


@pytest.mark.parametrize(("grid", "size", "expected"), [
    ((4, 22, 22), (13, 176, 176), (4, 22, 22)), ((3, 3, 3), (9, 24, 17), (3, 3, 3)),  # of an image tokenizer
    ((1, 1, 32), (1, 16, 16), (1, 6, 5))])
def test_the_grid_is_kept_or_that_of_a_picture(grid, size, expected):
    assert image_grid(grid, size) == expected


def test_frames_are_grouped_as_the_latents_are():
    clip = torch.rand(1, 3, 8, 16, 16)
    for alone, lengths in ((True, [1, 4, 3]), (False, [3, 3, 2])):
        reconstruction, indices = thumbnail(clip, grid=(3, 2, 2), bits=18, first_frame_alone=alone)(clip)
        changes = (reconstruction[0, :, 1:] != reconstruction[0, :, :-1]).flatten(2).any(2).any(0).nonzero().flatten()
        assert (changes + 1).tolist() == [lengths[0], lengths[0] + lengths[1]] and indices.shape[1] == 3

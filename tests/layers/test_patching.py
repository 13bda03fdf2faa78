"""Space-to-depth and Haar patching: the values, the inverse, the first frame, streams."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.layers import HaarPatching, SpaceToDepthPatching, depth_to_space, space_to_depth

KINDS = pytest.mark.parametrize("kind", [HaarPatching, SpaceToDepthPatching])
SIZES = pytest.mark.parametrize("patch_size", [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 2, 2), (4, 4, 4), (2, 4, 4),
                                               (1, 1, 2), (4, 1, 2)])


def clip(patch_size: tuple[int, int, int], *, t: int = 3, channels: int = 2) -> torch.Tensor:
    p_t, p_h, p_w = patch_size
    return torch.randn(2, channels, 1 + (t - 1) * p_t, 3 * p_h, 2 * p_w, dtype=torch.double)


def haar_step(x: np.ndarray, halved: tuple[bool, bool, bool], scale: float) -> np.ndarray:
    """One step on (C, T, H, W) by the filter of each band, in the order LLL, LLH, LHL, ... (time, row, column)."""
    bands = []
    for letters in product(*("LH" if halve else "-" for halve in halved)):
        signs = [{"L": [1, 1], "H": [1, -1], "-": [1]}[letter] for letter in letters]
        kernel = np.einsum("i,j,k->ijk", *signs) * scale**sum(halved)
        t, h, w = (side // size for side, size in zip(x.shape[1:], kernel.shape, strict=True))
        blocks = x.reshape(len(x), t, kernel.shape[0], h, kernel.shape[1], w, kernel.shape[2])
        bands.append(np.einsum("ctihjwk,ijk->cthw", blocks, kernel))
    return np.concatenate(bands)


def haar(x: np.ndarray, patch_size: tuple[int, int, int], scale: float) -> np.ndarray:
    """Steps of one (C, T, H, W) clip, after the first frame's copies."""
    x = np.concatenate([x[:, :1]] * (patch_size[0] - 1) + [x], axis=1)
    while max(patch_size) > 1:
        x = haar_step(x, tuple(side > 1 for side in patch_size), scale)
        patch_size = tuple(max(1, side // 2) for side in patch_size)
    return x


@SIZES
@pytest.mark.parametrize("scale", [2**-0.5, 0.5])
def test_haar_bands_are_sums_by_the_filters_of_each_step(patch_size, scale):
    pixels = clip(patch_size)
    expected = np.stack([haar(sample, patch_size, scale) for sample in pixels.numpy()])
    torch.testing.assert_close(HaarPatching(patch_size, scale=scale)(pixels), torch.from_numpy(expected))


@SIZES
def test_default_haar_matrix_is_orthonormal(patch_size):
    number = int(np.prod(patch_size))
    images = torch.eye(number, dtype=torch.double).reshape(number, 1, *patch_size)
    patching = HaarPatching(patch_size)
    zeros = torch.zeros(number, 1, 1, *patch_size[1:], dtype=torch.double)
    second = patching(torch.cat([zeros, images], dim=2))[:, :, 1]  # the patch after the first frame's
    matrix = second.flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(number, dtype=torch.double))


@pytest.mark.parametrize("patch_size", [(1, 4, 4), (4, 4, 4)])
def test_with_the_scale_of_cosmos_the_lowest_band_is_the_mean_of_the_patch(patch_size):
    pixels = clip(patch_size, channels=3)
    bands = HaarPatching(patch_size, scale=0.5)(pixels)
    first = pixels[:, :, 0].unflatten(2, (3, 4)).unflatten(4, (2, 4)).mean((3, 5))
    torch.testing.assert_close(bands[:, :3, 0], first)
    later = pixels[:, :, 1:1 + patch_size[0], :4, :4].mean((2, 3, 4))
    torch.testing.assert_close(bands[:, :3, 1, 0, 0], later)


def test_bands_of_cosmos_image_networks_come_from_transposed_images():
    image = torch.tensor([[1.0, 2.0], [3.0, 8.0]])  # bands LL, LH, HL, HH of columns, then rows
    columns_then_rows = [(1 + 2 + 3 + 8) / 4, (1 + 2 - 3 - 8) / 4, (1 - 2 + 3 - 8) / 4, (1 - 2 - 3 + 8) / 4]
    bands = HaarPatching(2, scale=0.5)(image.T.reshape(1, 1, 1, 2, 2))
    assert bands.flatten().tolist() == columns_then_rows


@SIZES
def test_space_to_depth_patches_hold_time_row_column_and_channel(patch_size):
    p_t, p_h, p_w = patch_size
    pixels = clip(patch_size)
    patches = SpaceToDepthPatching(patch_size)(pixels)
    assert patches.shape == (2, p_t * p_h * p_w * 2, 3, 3, 2)
    for c, t, row, column in np.ndindex(*pixels.shape[1:]):
        full = t + p_t - 1  # after the copies of the first frame
        channel = ((full % p_t * p_h + row % p_h) * p_w + column % p_w) * 2 + c
        assert torch.equal(patches[:, channel, full // p_t, row // p_h, column // p_w], pixels[:, c, t, row, column])


@SIZES
def test_space_to_depth_undoes_depth_to_space(patch_size):
    x = torch.randn(1, 2 * int(np.prod(patch_size)), 3, 2, 3)
    assert torch.equal(space_to_depth(depth_to_space(x, patch_size, "all"), patch_size), x)


@KINDS
@SIZES
@pytest.mark.parametrize("t", [1, 3])
def test_inverse_gives_the_pixels_again(kind, patch_size, t):
    pixels, patching = clip(patch_size, t=t), kind(patch_size)
    patches = patching(pixels)
    assert patches.shape[2:] == (t, 3, 2)
    torch.testing.assert_close(patching.inverse(patches), pixels)


@KINDS
def test_float32_pixels_come_back_to_rounding(kind):
    pixels = torch.rand(1, 3, 5, 8, 8) * 2 - 1
    patching = kind((4, 4, 4))
    assert (patching.inverse(patching(pixels)) - pixels).abs().max() < 2e-6


@KINDS
def test_image_is_the_first_frame_of_a_clip(kind):
    pixels, patching = clip((4, 2, 2)), kind((4, 2, 2))
    torch.testing.assert_close(patching(pixels[:, :, :1]), patching(pixels)[:, :, :1])


@KINDS
def test_gradient_of_the_round_trip_is_that_of_the_identity(kind):
    pixels, patching = clip((2, 4, 4)).requires_grad_(), kind((2, 4, 4))
    weights = torch.randn_like(pixels)
    (patching.inverse(patching(pixels)) * weights).sum().backward()
    torch.testing.assert_close(pixels.grad, weights)


@settings(max_examples=40, deadline=None)
@given(chunks=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), p_t=st.sampled_from([1, 2, 4]),
       kind=st.sampled_from([HaarPatching, SpaceToDepthPatching]))
def test_stream_in_chunks_of_any_sizes_gives_the_complete_patches_of_the_clip(chunks, p_t, kind):
    torch.manual_seed(0)
    patching, pixels, cache = kind((p_t, 2, 2)), torch.randn(1, 2, sum(chunks), 4, 4), {}
    complete = 1 + (sum(chunks) - 1) // p_t
    whole = patching(pixels[:, :, :1 + (complete - 1) * p_t])
    pieces = [patching(chunk, cache) for chunk in pixels.split(chunks, dim=2)]
    assert all(piece.shape[1] == p_t * 8 and piece.shape[3:] == (2, 2) for piece in pieces)
    assert torch.equal(torch.cat(pieces, dim=2), whole)


@settings(max_examples=40, deadline=None)
@given(chunks=st.lists(st.integers(0, 3), min_size=1, max_size=6).filter(any), p_t=st.sampled_from([1, 2, 4]),
       kind=st.sampled_from([HaarPatching, SpaceToDepthPatching]))
def test_inverse_of_a_stream_is_that_of_the_whole(chunks, p_t, kind):
    torch.manual_seed(0)
    patching, patches, cache = kind((p_t, 2, 2)), torch.randn(1, p_t * 8, sum(chunks), 2, 3), {}
    pieces = [patching.inverse(chunk, cache) for chunk in patches.split(chunks, dim=2)]
    assert torch.equal(torch.cat(pieces, dim=2), patching.inverse(patches))


@KINDS
def test_stream_keeps_fewer_frames_than_a_patch(kind):
    patching, cache = kind((4, 2, 2)), {}
    for _ in range(5):
        patching(torch.randn(1, 2, 7, 4, 4), cache)
        assert sum(frames.untyped_storage().nbytes() for frames, _ in cache.values()) <= 3 * 2 * 4 * 4 * 4


@KINDS
def test_memory_layout_is_channels_last(kind):
    patching = kind((1, 2, 2))
    patches = patching(torch.randn(2, 3, 5, 4, 6))
    for tensor in (patches, patching.inverse(patches)):
        assert tensor.is_contiguous(memory_format=torch.channels_last_3d)


@KINDS
def test_patches_of_one_pixel_copy_nothing(kind):
    pixels = torch.randn(1, 3, 2, 4, 4)
    assert kind(1)(pixels).data_ptr() == kind(1).inverse(pixels).data_ptr() == pixels.data_ptr()


@KINDS
def test_whole_number_is_a_patch_of_one_frame(kind):
    assert kind(4).patch_size == kind([1, 4, 4]).patch_size == (1, 4, 4)


@KINDS
@pytest.mark.parametrize("patch_size", [0, (2, 2), (1, 2.0, 2), "2"])
def test_patch_size_of_other_forms_is_refused(kind, patch_size):
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs patch_size p or \(p_t, p_h, p_w\).*got"):
        kind(patch_size)


def test_haar_refuses_sides_that_are_no_powers_of_two_and_scales_that_cannot_be_undone():
    with pytest.raises(ValueError, match=r"powers of two, got \(1, 6, 6\); SpaceToDepthPatching takes any"):
        HaarPatching(6)
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite scale above 0, got"):
            HaarPatching(2, scale=scale)


@KINDS
def test_sizes_that_the_patch_does_not_divide_are_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs 1 \+ k \* 4 frames, got 4; pad the clip"):
        kind((4, 2, 2))(torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ValueError, match=r"multiples of \(1, 4, 4\), got \(1, 8, 6\)"):
        kind(4)(torch.zeros(1, 3, 1, 8, 6))

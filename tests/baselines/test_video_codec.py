"""H.264 and H.265 within a budget: the bits that are counted are all that a decoder needs."""

import av
import pytest
import torch
from training.tiny import stripes

from toolkit.baselines.video_codec import X264, X265

PARAMETER_SETS = {X264: (7, 8), X265: (32, 33)}  # what makes a stream decode alone
codecs = pytest.mark.parametrize("codec", [X264, X265])


def clip(*, num_frames: int = 9, height: int = 48, width: int = 64) -> torch.Tensor:
    """(T, H, W, 3) uint8 of moving stripes with noise, which costs bits."""
    pixels = stripes(2, num_frames=num_frames, height=height, width=width)
    pixels = pixels + 0.2 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)


def as_pixels(frames: torch.Tensor) -> torch.Tensor:
    """(T, H, W, 3) uint8 -> (1, 3, T, H, W)."""
    return (frames.permute(3, 0, 1, 2).float() / 127.5 - 1)[None]


@codecs
def test_streams_come_close_to_the_budget_from_below_and_more_bits_give_a_better_picture(codec):
    pixels, errors = as_pixels(clip()), []
    for bits_per_pixel in (0.15, 0.5, 2.0):
        one = codec(bits_per_pixel=bits_per_pixel)
        reconstruction, indices = one(pixels)
        assert 0.9 * bits_per_pixel < one.bits_per_pixel <= bits_per_pixel
        assert reconstruction.shape == pixels.shape and indices is None and reconstruction.abs().max() <= 1
        errors.append(float((reconstruction - pixels).square().mean()))
    assert errors[0] > errors[1] > errors[2]


@codecs
def test_the_counted_bits_are_the_length_of_a_stream_that_decodes_alone(codec):
    frames, one = clip(), codec(bits_per_pixel=0.5)
    stream = one.stream(frames)
    one(as_pixels(frames))
    assert one.num_bits == 8 * len(stream) and one.num_pixels == 9 * 48 * 64
    units = [(one.unit_type(unit[0]), unit) for unit in stream.split(b"\x00\x00\x01")[1:]]
    types = {type_ for type_, _ in units}
    assert set(PARAMETER_SETS[codec]) <= types and not set(codec.comments) & types
    assert one.decompress(stream, (48, 64)).shape == frames.shape
    for missing in PARAMETER_SETS[codec]:  # without one nothing decodes: none of the counted headers is idle
        rest = b"".join(b"\x00\x00\x01" + unit for type_, unit in units if type_ != missing)
        with pytest.raises((ValueError, av.FFmpegError)):
            one.decompress(rest, (48, 64))


@codecs
def test_an_image_and_odd_sizes_are_coded_too(codec):
    pixels, one = stripes(1, num_frames=1, height=35, width=37)[None], codec(quality=10)
    reconstruction, _ = one(pixels)
    assert reconstruction.shape == pixels.shape and one.num_pixels == 35 * 37
    assert (reconstruction.mean((2, 3, 4)) - pixels.mean((2, 3, 4))).abs().max() < 0.05


@codecs
def test_a_budget_below_the_headers_gives_the_smallest_stream(codec):
    frames = clip(num_frames=2)
    assert codec(bits_per_pixel=1e-4).stream(frames) == codec(quality=51).stream(frames)


def test_a_clip_costs_the_same_alone_and_in_a_batch():
    pixels = torch.stack([stripes(number, num_frames=5, height=32, width=32) for number in (1, 2, 3)])
    together, alone = X264(bits_per_pixel=0.3), X264(bits_per_pixel=0.3)
    joined = together(pixels)[0]
    single = torch.cat([alone(one[None])[0] for one in pixels])
    assert torch.equal(joined, single) and together.num_bits == alone.num_bits


@codecs
@pytest.mark.parametrize("side", [16, 30, 32, 48, 64])  # of which some made the encoder crash or waver
def test_a_clip_always_gives_the_same_stream_and_the_same_pixels(codec, side):
    frames, one = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8), codec(quality=30, preset="medium")
    streams = {one.stream(frames) for _ in range(4)}
    assert len(streams) == 1
    first, *others = (one.decompress(stream, (side, side)) for stream in [*streams] * 4)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("options", [{}, {"quality": 20, "bits_per_pixel": 0.1}])
def test_a_codec_needs_one_aim(options):
    with pytest.raises(ValueError, match="either bits_per_pixel or quality"):
        X264(**options)

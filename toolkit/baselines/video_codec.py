"""H.264 and H.265 at a tokenizer's bits per pixel: what engineering, without training, makes of them.

A clip is encoded by itself, in memory, and every byte that its decoding needs is counted, headers included; x264's
comment about itself (600 bytes of settings that no decoder reads) is cut out. The search for the quality is per
clip, as a tokenizer too spends the same bits on every clip: the largest stream within the budget is taken.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

LOWEST, HIGHEST = 51.0, 0.0  # constant rate factors of both encoders: the worst quality and the best
_STEPS = 9  # bisections of that range, the last by 0.1
_START = re.compile(rb"\x00\x00\x01")


@dataclass(frozen=True)
class Standard:
    """A video coding standard and its encoder.

    Attributes:
        encoder, decoder: FFmpeg's names.
        options: Of the encoder: a single thread, so that streams are the same everywhere, and no talk.
        shift, mask: Where in a unit's first byte its type is.
        comments: Types of units that decoding does not need.

    Example:
        >>> STANDARDS["x264"].unit_type(0x65), STANDARDS["x265"].unit_type(0x28)   # a key frame's slice in each
        (5, 20)
    """

    encoder: str
    decoder: str
    options: dict[str, str] = field(hash=False)
    shift: int
    mask: int
    comments: tuple[int, ...]

    def unit_type(self, first_byte: int) -> int:
        """Of a network abstraction layer unit."""
        return first_byte >> self.shift & self.mask


# Without mbtree and cutree, which shift bits to blocks that later frames use: of small pictures, their vector code
# reads past the end of its arrays, so that streams differ from run to run, and in x265 writes there.
STANDARDS = {
    "x264": Standard("libx264", "h264", {"x264-params": "threads=1:no-mbtree=1"}, 0, 31, (6,)),
    "x265": Standard("libx265", "hevc", {"x265-params": "info=0:log-level=none:pools=none:frame-threads=1:cutree=0"},
                     1, 63, (39, 40)),
}
SMALLEST = 32  # pixels of a side


def encode(frames: Tensor, *, standard: str, quality: float, preset: str = "slow") -> bytes:
    """A clip as a stream (Annex B) that decodes by itself.

    Args:
        frames: (T, H, W, 3) uint8. Odd sides are padded by repeating the border, as half-resolution chroma needs,
            and so are those below 32.
        standard: "x264" or "x265".
        quality: Constant rate factor from 0, the best, to 51.
        preset: The encoder's; the slower, the better.

    Raises:
        ValueError: If the frames are of another shape.

    Example:
        >>> clip = torch.full((5, 32, 48, 3), 128, dtype=torch.uint8)
        >>> stream = encode(clip, standard="x264", quality=30)
        >>> len(stream) < 200, decode(stream, standard="x264", size=(32, 48)).shape
        (True, torch.Size([5, 32, 48, 3]))
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"encode takes frames (T, H, W, 3) of uint8, got {tuple(frames.shape)}.")
    coder = STANDARDS[standard]
    context = av.CodecContext.create(coder.encoder, "w")
    padded = _padded(frames)
    context.height, context.width, context.pix_fmt = *padded.shape[1:3], "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)  # of no influence at a constant rate factor
    context.options = {"crf": f"{quality:g}", "preset": preset, **coder.options}
    if standard == "x265":  # coding units of a whole small picture give streams that differ from run to run
        largest = next((unit for unit in (64, 32) if unit < min(padded.shape[1:3])), 16)
        context.options |= {"x265-params": f"{coder.options['x265-params']}:ctu={largest}"}
    packets = []
    for number, planes in enumerate(_to_planes(padded)):
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = number
        packets += context.encode(frame)
    return _without_comments(b"".join(map(bytes, [*packets, *context.encode(None)])), coder)


def decode(stream: bytes, *, standard: str, size: tuple[int, int]) -> Tensor:
    """The frames (T, H, W, 3) uint8 of a stream of :func:`encode`, cropped to ``size``.

    Example:
        >>> clip = torch.zeros(3, 31, 33, 3, dtype=torch.uint8)
        >>> decode(encode(clip, standard="x265", quality=20), standard="x265", size=(31, 33)).float().mean() < 2
        tensor(True)
    """
    context = av.CodecContext.create(STANDARDS[standard].decoder, "r")
    context.thread_count = 1
    packets = [*context.parse(stream), *context.parse(b""), None]
    planes = [frame.to_ndarray() for packet in packets for frame in context.decode(packet)]
    return _from_planes(np.stack(planes))[:, :size[0], :size[1]]


# BT.601 in 8 bits of limited range, here and not in FFmpeg's threads, which do not always round alike.
_TO_YUV = torch.tensor([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_OFFSET = torch.tensor([16.0, 128.0, 128.0])


def _to_planes(frames: Tensor) -> Iterator[np.ndarray]:
    """Frames (T, H, W, 3) uint8 -> of each, yuv420p as PyAV has it: (H + H / 2, W) uint8."""
    yuv = rearrange(frames.float() @ _TO_YUV.T + _OFFSET, "t h w c -> t c h w")
    luma, chroma = yuv[:, 0].round().to(torch.uint8), F.avg_pool2d(yuv[:, 1:], 2).round().to(torch.uint8)
    for one, other in zip(luma, chroma, strict=True):
        yield torch.cat([one.flatten(), other.flatten()]).view(-1, one.shape[1]).numpy()


def _from_planes(planes: np.ndarray) -> Tensor:
    """(T, H + H / 2, W) uint8 -> frames (T, H, W, 3) uint8, chroma grown bilinearly."""
    values = torch.from_numpy(planes).float()
    t, rows, width = values.shape
    height = rows * 2 // 3
    chroma = values[:, height:].reshape(t, 2, height // 2, width // 2)
    chroma = F.interpolate(chroma, size=(height, width), mode="bilinear", align_corners=False)
    yuv = torch.cat([values[:, None, :height], chroma], dim=1)
    rgb = (rearrange(yuv, "t c h w -> t h w c") - _OFFSET) @ torch.linalg.inv(_TO_YUV).T
    return rgb.round().clamp(0, 255).to(torch.uint8)


def _padded(frames: Tensor) -> Tensor:
    height, width = frames.shape[1:3]
    planes = rearrange(frames.cpu(), "t h w c -> t c h w").float()
    bottom, right = (max(side + side % 2, SMALLEST) - side for side in (height, width))
    planes = F.pad(planes, (0, right, 0, bottom), mode="replicate").to(torch.uint8)
    return rearrange(planes, "t c h w -> t h w c")


def _without_comments(stream: bytes, coder: Standard) -> bytes:
    """The stream without the units that only comment on it; the start codes of the others are untouched."""
    starts = [match.start() for match in _START.finditer(stream)]
    kept = []
    for start, end in zip(starts, [*starts[1:], len(stream)], strict=True):
        if coder.unit_type(stream[start + 3]) not in coder.comments:
            kept.append(stream[start:end])
    return b"".join(kept)


class VideoCodec:
    """H.264 or H.265 as a codec of pixels, each clip by itself, within a budget of bits or at one quality.

    Args:
        standard: "x264" or "x265".
        bits_per_pixel: The budget; the quality of each clip is searched for. The stream is the largest found
            within it, or the smallest there is where even that is too large.
        quality: Or one constant rate factor for all clips.
        preset: The encoder's.

    Attributes:
        num_bits: Of the streams so far, all headers counted.
        num_pixels: Of the clips so far, T * H * W each.

    Raises:
        ValueError: If not exactly one of ``bits_per_pixel`` and ``quality`` is given, or the standard is unknown.

    Example:
        >>> ramp = torch.linspace(-1, 1, 32).expand(1, 3, 5, 32, 32)
        >>> codec = VideoCodec("x264", bits_per_pixel=0.5)
        >>> reconstruction, indices = codec(ramp)
        >>> reconstruction.shape, indices, 0 < codec.num_bits / codec.num_pixels <= 0.5
        (torch.Size([1, 3, 5, 32, 32]), None, True)
    """

    codebook_size, num_codebooks, digits = 0, 1, ()

    def __init__(self, standard: str, *, bits_per_pixel: float | None = None, quality: float | None = None,
                 preset: str = "slow"):
        if standard not in STANDARDS:
            raise ValueError(f"VideoCodec takes one of {', '.join(STANDARDS)}, got {standard!r}.")
        if (bits_per_pixel is None) == (quality is None):
            raise ValueError(f"VideoCodec takes either bits_per_pixel or quality, got {bits_per_pixel} and {quality}.")
        self.standard, self.bits_per_pixel, self.quality, self.preset = standard, bits_per_pixel, quality, preset
        self.num_bits = self.num_pixels = 0

    def __call__(self, pixels: Tensor) -> tuple[Tensor, None]:
        """(B, 3, T, H, W) in [-1, 1] -> (reconstruction of that shape, None: there are no indices)."""
        values = ((pixels.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        clips = []
        for clip in rearrange(values, "b c t h w -> b t h w c"):
            stream = self.stream(clip)
            self.num_bits += 8 * len(stream)
            self.num_pixels += clip[..., 0].numel()
            clips.append(decode(stream, standard=self.standard, size=tuple(clip.shape[1:3])))
        decoded = rearrange(torch.stack(clips), "b t h w c -> b c t h w").to(pixels)
        return decoded / 127.5 - 1, None

    def stream(self, clip: Tensor) -> bytes:
        """The stream for one clip (T, H, W, 3) uint8."""
        compress = functools.partial(encode, clip, standard=self.standard, preset=self.preset)
        if self.quality is not None:
            return compress(quality=self.quality)
        budget = int(self.bits_per_pixel * clip[..., 0].numel() / 8 + 1e-6)  # bytes, whole
        chosen = smallest = compress(quality=LOWEST)
        if len(smallest) >= budget:
            return smallest
        worse, better = LOWEST, HIGHEST
        for _ in range(_STEPS):
            middle = (worse + better) / 2
            found = compress(quality=middle)
            if len(found) > budget:
                better = middle
                continue
            worse = middle
            chosen = found if len(found) > len(chosen) else chosen
            if len(found) == budget:
                break
        return chosen

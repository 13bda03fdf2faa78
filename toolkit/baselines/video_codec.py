"""H.264 and H.265 at a tokenizer's bits per pixel.

Each clip is encoded alone, in memory, and every byte that decoding needs is counted, headers included. x264's comment
(600 bytes of settings that no decoder reads) is removed. The quality is searched per clip, because a tokenizer also
spends the same bits on every clip: the largest stream within the budget is used.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Baseline
from toolkit.registry import BASELINES

LOWEST, HIGHEST = 51.0, 0.0  # constant rate factors of both encoders: the worst quality and the best
SMALLEST = 32  # pixels of a side
_STEPS = 9  # bisections of the range of rate factors, the last by 0.1
# BT.601 in 8 bits of limited range; computed here because FFmpeg's threads do not always round alike.
_TO_YUV = torch.tensor([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_OFFSET = torch.tensor([16.0, 128.0, 128.0])


class VideoCodec(Baseline):
    """A video coding standard that encodes each clip alone, within a budget of bits or at one quality.

    Args:
        bits_per_pixel: Budget; the quality of each clip is searched for. The stream is the largest within the budget,
            or the smallest of all where none fits.
        quality: Or one constant rate factor for all clips.
        preset: Preset of the encoder.

    Attributes:
        bits_per_pixel: Rate of all streams so far, headers counted; None before the first.
        encoder, decoder: FFmpeg's names, the encoder's without "lib".
        shift, mask: Where the first byte of a network abstraction layer unit has the unit's type.
        comments: Types of units that decoding does not need.

    Raises:
        ValueError: Unless exactly one of ``bits_per_pixel`` and ``quality`` is set.

    Example:
        >>> ramp = torch.linspace(-1, 1, 32).expand(1, 3, 5, 32, 32)
        >>> codec = X264(bits_per_pixel=0.5)   # the subclass of x264
        >>> reconstruction, indices = codec(ramp)
        >>> reconstruction.shape, indices, 0 < codec.bits_per_pixel <= 0.5
        (torch.Size([1, 3, 5, 32, 32]), None, True)
    """

    encoder: str
    decoder: str
    shift: int
    mask: int
    comments: tuple[int, ...]
    speed_quality = 35  # middle of the rate factors in use

    def __init__(self, *, bits_per_pixel: float | None = None, quality: float | None = None, preset: str = "slow"):
        if (bits_per_pixel is None) == (quality is None):
            raise ValueError(f"{type(self).__name__} takes either bits_per_pixel or quality, "
                             f"got {bits_per_pixel} and {quality}.")
        self.budget, self.quality, self.preset = bits_per_pixel, quality, preset
        self.num_bits = self.num_pixels = 0

    @property
    def bits_per_pixel(self) -> float | None:
        return self.num_bits / self.num_pixels if self.num_pixels else None

    # Without mbtree and cutree, which move bits to blocks that later frames use: on small pictures their vector code
    # reads (in x265 also writes) past the end of its arrays, so that streams differ from run to run.
    @abstractmethod
    def parameters(self, side: int) -> str:
        """Encoder parameters for this shorter side: one thread, for the same streams everywhere, and no log."""

    def unit_type(self, first_byte: int) -> int:
        """Type of a network abstraction layer unit."""
        return first_byte >> self.shift & self.mask

    def __call__(self, pixels: Tensor) -> tuple[Tensor, None]:
        """(B, 3, T, H, W) in [-1, 1] -> (reconstruction of that shape, None: there are no indices)."""
        streams = [self.stream(clip) for clip in _to_bytes(pixels)]
        self.num_bits += 8 * sum(map(len, streams))
        self.num_pixels += pixels[:, 0].numel()
        return self.decode(streams, tuple(pixels.shape[2:])).to(pixels), None

    def encode(self, pixels: Tensor) -> list[bytes]:
        """(B, 3, T, H, W) in [-1, 1] -> a stream of each clip, without the search for the quality."""
        return [self.compress(clip, self.speed_quality) for clip in _to_bytes(pixels)]

    def decode(self, codes: list[bytes], size: tuple[int, int, int]) -> Tensor:
        """Streams -> (B, 3, T, H, W) in [-1, 1]."""
        clips = [self.decompress(stream, size[1:]) for stream in codes]
        return rearrange(torch.stack(clips), "b t h w c -> b c t h w") / 127.5 - 1

    def stream(self, clip: Tensor) -> bytes:
        """The stream of one clip (T, H, W, 3) uint8."""
        if self.quality is not None:
            return self.compress(clip, self.quality)
        budget = int(self.budget * clip[..., 0].numel() / 8 + 1e-6)  # bytes, whole
        largest = self.compress(clip, LOWEST)
        worse, better = LOWEST, HIGHEST
        for _ in range(_STEPS):
            if len(largest) >= budget:
                break
            middle = (worse + better) / 2
            stream = self.compress(clip, middle)
            if len(stream) > budget:
                better = middle
            else:
                worse, largest = middle, max(largest, stream, key=len)
        return largest

    def compress(self, clip: Tensor, quality: float) -> bytes:
        """A clip (T, H, W, 3) uint8 as a stream (Annex B) that decodes alone; quality is a rate factor, 0 (best) to 51.

        The border is repeated to even sides, as half-resolution chroma needs, of at least 32 pixels.
        """
        bottom, right = (max(side + side % 2, SMALLEST) - side for side in clip.shape[1:3])
        frames = np.pad(clip.numpy(), ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
        context = av.CodecContext.create(f"lib{self.encoder}", "w")
        context.height, context.width, context.pix_fmt = *frames.shape[1:3], "yuv420p"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)  # no influence at a constant rate factor
        context.options = {"crf": f"{quality:g}", "preset": self.preset,
                           f"{self.encoder}-params": self.parameters(min(frames.shape[1:3]))}
        packets = []
        for number, planes in enumerate(_to_planes(torch.from_numpy(frames))):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            packets += context.encode(frame)
        stream = b"".join(map(bytes, [*packets, *context.encode(None)]))
        starts = [match.start() for match in re.finditer(rb"\x00\x00\x01", stream)]
        units = [stream[start:end] for start, end in zip(starts, [*starts[1:], len(stream)], strict=True)]
        return b"".join(unit for unit in units if self.unit_type(unit[3]) not in self.comments)

    def decompress(self, stream: bytes, size: tuple[int, int]) -> Tensor:
        """The frames (T, H, W, 3) uint8 of a stream of :meth:`compress`, cropped to ``size`` (H, W)."""
        context = av.CodecContext.create(self.decoder, "r")
        context.thread_count = 1
        packets = [*context.parse(stream), *context.parse(b""), None]
        planes = [frame.to_ndarray() for packet in packets for frame in context.decode(packet)]
        return _from_planes(np.stack(planes))[:, :size[0], :size[1]]


def _to_bytes(pixels: Tensor) -> Tensor:
    """(B, 3, T, H, W) in [-1, 1] -> (B, T, H, W, 3) uint8."""
    values = ((pixels.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(values, "b c t h w -> b t h w c").contiguous()


def _to_planes(frames: Tensor) -> Iterator[np.ndarray]:
    """Frames (T, H, W, 3) uint8 -> each in PyAV's yuv420p: (H + H / 2, W) uint8."""
    yuv = rearrange(frames.float() @ _TO_YUV.T + _OFFSET, "t h w c -> t c h w")
    luma, chroma = yuv[:, 0].round().to(torch.uint8), F.avg_pool2d(yuv[:, 1:], 2).round().to(torch.uint8)
    for y, uv in zip(luma, chroma, strict=True):
        yield torch.cat([y.flatten(), uv.flatten()]).view(-1, y.shape[1]).numpy()


def _from_planes(planes: np.ndarray) -> Tensor:
    """(T, H + H / 2, W) uint8 -> frames (T, H, W, 3) uint8, chroma enlarged bilinearly."""
    values = torch.from_numpy(planes).float()
    height, width = values.shape[1] * 2 // 3, values.shape[2]
    chroma = values[:, height:].reshape(len(values), 2, height // 2, width // 2)
    chroma = F.interpolate(chroma, size=(height, width), mode="bilinear", align_corners=False)
    yuv = torch.cat([values[:, None, :height], chroma], dim=1)
    rgb = (rearrange(yuv, "t c h w -> t h w c") - _OFFSET) @ torch.linalg.inv(_TO_YUV).T
    return rgb.round().clamp(0, 255).to(torch.uint8)


@BASELINES.register_module(name="x264")
class X264(VideoCodec):
    """H.264 by x264, each clip alone, within the bits per pixel of a tokenizer."""

    encoder, decoder, shift, mask, comments = "x264", "h264", 0, 31, (6,)

    def parameters(self, side: int) -> str:
        return "threads=1:no-mbtree=1"


@BASELINES.register_module(name="x265")
class X265(VideoCodec):
    """H.265 by x265, each clip alone, within the bits per pixel of a tokenizer."""

    encoder, decoder, shift, mask, comments = "x265", "hevc", 1, 63, (39, 40)

    def parameters(self, side: int) -> str:
        # Coding units of a whole small picture give streams that differ from run to run.
        largest = next((unit for unit in (64, 32) if unit < side), 16)
        return f"info=0:log-level=none:pools=none:frame-threads=1:cutree=0:ctu={largest}"

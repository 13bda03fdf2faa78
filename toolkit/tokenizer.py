"""The tokenizer: an encoder, a quantizer and a decoder under one roof."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Component, Decoder, Encoder, Quantizer, QuantizerOutput, TokenizerOutput
from toolkit.saving import save_component

Size = tuple[int, int, int]


class Tokenizer(Component, nn.Module):
    """Pixels to a grid of integers and back.

    Any size may come in. Sizes that do not fit the stride are padded, time by repeating the last
    frame and space by repeating the border, and cropped back on the way out.

    Args:
        encoder: (B, C, T, H, W) -> (B, d, t, h, w).
        quantizer: Its ``dim`` is d.
        decoder: (B, d, t, h, w) -> (B, C, T, H, W), of the encoder's stride.

    Attributes:
        quantization: How far :meth:`forward` in training goes from the latents (0, a bypass) to the codes (1);
            evaluation, tokens and files are always of the codes.

    Raises:
        ValueError: If the parts' channels, strides or framing do not agree.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> indices, size = tokenizer.tokenize(torch.zeros(1, 3, 4, 31, 33), return_size=True)
        >>> tuple(indices.shape[1:4]) == tokenizer.grid((4, 31, 33)), tokenizer.detokenize(indices, size).shape
        (True, torch.Size([1, 3, 4, 31, 33]))
    """

    def __init__(self, encoder: Encoder, quantizer: Quantizer, decoder: Decoder):
        super().__init__()
        if not encoder.out_channels == quantizer.dim == decoder.in_channels:
            raise ValueError(f"Tokenizer needs one latent width, got encoder.out_channels={encoder.out_channels}, "
                             f"quantizer.dim={quantizer.dim}, decoder.in_channels={decoder.in_channels}; leave the "
                             "first and the last out of the config and they follow the quantizer.")
        shapes = [(tuple(part.stride), part.first_frame_alone) for part in (encoder, decoder)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"Tokenizer needs an encoder and a decoder of one stride, got {shapes[0][0]} and "
                             f"{shapes[1][0]} (first frame alone: {shapes[0][1]} and {shapes[1][1]}).")
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.quantization = 1.0

    @property
    def stride(self) -> Size:
        """(s_t, s_h, s_w), how many frames, rows and columns one position stands for."""
        return tuple(self.encoder.stride)

    @property
    def codebook_size(self) -> int:
        """K of one codebook, 0 for a continuous bottleneck."""
        return self.quantizer.codebook_size

    @property
    def num_codebooks(self) -> int:
        """G, codebooks per position."""
        return self.quantizer.num_codebooks

    @property
    def digits(self) -> tuple[int, ...]:
        """Sizes of the digits of an index, most significant first."""
        return self.quantizer.digits

    @property
    def config(self) -> dict[str, Any]:
        """What :func:`toolkit.build_tokenizer` needs to build it again."""
        return {"encoder": self.encoder.config, "quantizer": self.quantizer.config,
                "decoder": self.decoder.config}

    def encode(self, pixels: Tensor) -> QuantizerOutput:
        """Pixels (B, C, T, H, W) in [-1, 1] -> codes (B, d, t, h, w), indices (B, *positions, G), losses.

        Raises:
            ValueError: If the pixels are not 5-D with the encoder's channels.
        """
        return self.quantizer(self._latents(pixels))

    def decode(self, codes: Tensor, size: Size | None = None) -> Tensor:
        """Codes (B, d, t, h, w) -> pixels (B, C, T, H, W), not clamped, cropped to ``size`` if given."""
        pixels = self.decoder(codes)
        if size is None:
            return pixels
        t, h, w = size
        if t > pixels.shape[2] or h > pixels.shape[3] or w > pixels.shape[4]:
            raise ValueError(f"Tokenizer.decode makes (T, H, W) = {tuple(pixels.shape[2:])} of codes "
                             f"{tuple(codes.shape)}, which cannot be cropped to {tuple(size)}.")
        return pixels[:, :, :t, :h, :w]

    @torch.no_grad()
    def tokenize(self, pixels: Tensor, return_size: bool = False) -> Tensor | tuple[Tensor, Size]:
        """Pixels (B, C, T, H, W) in [-1, 1] -> indices (B, *positions, G) int64.

        Args:
            pixels: Images (T = 1) or clips of any size.
            return_size: Also return (T, H, W), with which :meth:`detokenize` crops the padding off.

        Raises:
            ValueError: If the quantizer is continuous.
        """
        if self.codebook_size == 0:
            raise ValueError(f"Tokenizer.tokenize needs a discrete quantizer, got {type(self.quantizer).__name__}; "
                             "use encode.")
        indices = self.encode(pixels).indices
        return (indices, tuple(pixels.shape[2:])) if return_size else indices

    @torch.no_grad()
    def detokenize(self, indices: Tensor, size: Size | None = None) -> Tensor:
        """Indices (B, *positions, G) -> pixels (B, C, T, H, W), not clamped, cropped to ``size`` if given."""
        grid = None if size is None else self.grid(size)
        codes = self.quantizer.codes_from_indices(indices, grid)
        return self.decode(codes.to(self.decoder.last_layer.dtype), size)

    @torch.no_grad()
    def tokenize_stream(self, clips: Iterable[Tensor]) -> Iterator[Tensor]:
        """Tokenize a video of any length chunk by chunk, in memory that does not grow.

        Args:
            clips: The chunks (B, C, T, H, W) of one video in order, T as it comes. A chunk that
                completes no position yields nothing yet; the end is padded as :meth:`tokenize` does.

        Yields:
            Indices (B, t, h, w, G); joined along t they are those of the whole video.

        Raises:
            ValueError: If a part cannot be streamed, with the reason.

        Example:
            >>> from toolkit import build_tokenizer, load_config
            >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
            >>> [tuple(i.shape) for i in tokenizer.tokenize_stream(torch.zeros(1, 3, 6, 8, 8).split(3, dim=2))]
            [(1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)]
        """
        self._check_streams(self.encoder)
        cache: dict[nn.Module, Tensor] = {}
        seen, last = 0, None
        for clip in clips:
            seen += clip.shape[2]
            last = clip[:, :, -1:] if clip.shape[2] else last
            yield from self._stream_indices(self._pad_space(clip), cache)
        if last is not None and (missing := self.fitting_size((seen, *last.shape[3:]))[0] - seen):
            yield from self._stream_indices(self._pad_space(last.expand(-1, -1, missing, -1, -1)), cache)

    @torch.no_grad()
    def detokenize_stream(self, indices: Iterable[Tensor], size: Size | None = None) -> Iterator[Tensor]:
        """Indices (B, t, h, w, G) of one video in chunks -> its pixels (B, C, T, H, W) in chunks, not clamped.

        Args:
            indices: The chunks in order, as from :meth:`tokenize_stream` or cut anywhere along t.
            size: (T, H, W) of the video, with which the padding is cropped off.

        Raises:
            ValueError: If a part cannot be streamed, with the reason.

        Example:
            >>> from toolkit import build_tokenizer, load_config
            >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
            >>> chunks = torch.zeros(1, 3, 1, 1, 1, dtype=torch.int64).split(1, dim=1)
            >>> [tuple(x.shape) for x in tokenizer.detokenize_stream(chunks, size=(6, 8, 8))]
            [(1, 3, 1, 8, 8), (1, 3, 4, 8, 8), (1, 3, 1, 8, 8)]
        """
        self._check_streams(self.decoder)
        cache: dict[nn.Module, Tensor] = {}
        done = 0
        for chunk in indices:
            codes = self.quantizer.codes_from_indices(chunk)
            pixels = self.decoder(codes.to(self.decoder.last_layer.dtype), cache)
            if size is not None:
                pixels = pixels[:, :, :size[0] - done, :size[1], :size[2]]
            done += pixels.shape[2]
            if pixels.shape[2]:
                yield pixels

    @property
    def why_not_streamed(self) -> str | None:
        """The reason why a video cannot be streamed through both networks, or None where it can."""
        return self._why_not(self.encoder) or self._why_not(self.decoder)

    def _check_streams(self, part: Encoder | Decoder) -> None:
        if reason := self._why_not(part):
            raise ValueError(f"Tokenizer cannot stream: its {reason}; give whole clips to tokenize and detokenize.")

    def _why_not(self, part: Encoder | Decoder) -> str | None:
        if not part.causal:
            reason = "is not causal: a frame's output depends on later frames (in MAGVIT2 networks, norm_scope='clip')"
        elif type(self.quantizer).positions is not Quantizer.positions or not self.codebook_size:
            part, reason = self.quantizer, "has no grid of indices, position by position"
        elif not part.first_frame_alone:
            reason = "does not let the first frame stand alone"
        elif "cache" not in inspect.signature(part.forward).parameters:
            reason = "takes no cache: its forward needs a second argument, cache=None, to keep what chunks share"
        else:
            return None
        return f"{type(part).__name__} {reason}"

    def _stream_indices(self, pixels: Tensor, cache: dict[nn.Module, Tensor]) -> Iterator[Tensor]:
        latents = self.encoder(pixels, cache)
        if latents.shape[2]:
            yield self.quantizer(latents).indices

    def forward(self, pixels: Tensor) -> TokenizerOutput:
        """Pixels (B, C, T, H, W) in [-1, 1] -> their reconstruction, of the same shape, and all between."""
        latents = self._latents(pixels)
        quantized = self.quantizer(latents)
        codes = quantized.codes
        if self.training and self.quantization < 1:
            codes = latents + self.quantization * (codes - latents)
        reconstruction = self.decode(codes, tuple(pixels.shape[2:]))
        return TokenizerOutput(reconstruction, latents, codes, quantized.indices, quantized.losses)

    def grid(self, size: Size) -> Size:
        """The latent grid (t, h, w) of pixels of size (T, H, W).

        A first frame that stands alone takes one latent; the rest is divided by the stride, rounded up.
        """
        alone = int(self.encoder.first_frame_alone)
        (frames, height, width), (s_t, s_h, s_w) = size, self.stride
        return alone + -(-(frames - alone) // s_t), -(-height // s_h), -(-width // s_w)

    def fitting_size(self, size: Size) -> Size:
        """The smallest (T, H, W) from ``size`` up that fits the stride: what pixels are padded to."""
        t, h, w = (cells * stride for cells, stride in zip(self.grid(size), self.stride, strict=True))
        return t - int(self.encoder.first_frame_alone) * (self.stride[0] - 1), h, w

    def _latents(self, pixels: Tensor) -> Tensor:
        channels = self.encoder.in_channels
        if pixels.ndim != 5 or pixels.shape[1] != channels or 0 in pixels.shape:
            raise ValueError(f"Tokenizer takes pixels (B, {channels}, T, H, W), got {tuple(pixels.shape)}; "
                             "an image is T = 1.")
        return self.encoder(self._pad(pixels))

    def _pad(self, pixels: Tensor) -> Tensor:
        """Repeat the last frame, row and column until the size fits the stride."""
        size = tuple(pixels.shape[2:])
        t, h, w = self.fitting_size(size)
        if (t, h, w) == size:
            return pixels
        return F.pad(pixels, (0, w - size[2], 0, h - size[1], 0, t - size[0]), mode="replicate")

    def _pad_space(self, pixels: Tensor) -> Tensor:
        """As :meth:`_pad`, of a chunk whose number of frames is left as it is."""
        _, h, w = self.fitting_size((1, *pixels.shape[3:]))
        sides = (0, w - pixels.shape[4], 0, h - pixels.shape[3], 0, 0)
        return F.pad(pixels, sides, mode="replicate") if any(sides) and pixels.shape[2] else pixels

    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (float32), all that :func:`load_tokenizer` needs."""
        save_component(self, directory)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the files of :meth:`save_pretrained` to the Hugging Face hub; returns the commit's address."""
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            return str(api.upload_folder(repo_id=repo_id, folder_path=directory))

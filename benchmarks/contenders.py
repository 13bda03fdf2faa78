"""What is compared: tokenizers, and the untrained codecs and bypasses that stand beside them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import torch
from protocol import Protocol
from torch import Tensor

from toolkit.baselines.untrained import Thumbnail, bits_per_cell
from toolkit.baselines.video_codec import STANDARDS, VideoCodec, decode, encode
from toolkit.build import load_tokenizer
from toolkit.quantizers import Identity
from toolkit.tokenizer import Tokenizer

CURVE_FACTORS = (0.5, 2.0)  # of the tokenizers' rate, at which codecs are measured besides


@dataclass(frozen=True)
class Contender:
    """A row to be.

    Attributes:
        name, title: In file names and in tables.
        kind: "tokenizer" or "anchor".
        spec: What :func:`open_codec` makes the codec of, plain values.
        rate: Bits per pixel, where they are known before; None for what has none.
        notes: What a reader of the row must know.
        training: How it was trained, if it was here.
    """

    name: str
    title: str
    kind: str
    spec: dict[str, Any]
    rate: float | None = None
    notes: tuple[str, ...] = ()
    training: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything about it that decides its scores; paths are not, files are."""
        spec = {key: value for key, value in self.spec.items() if key != "path"}
        if "path" in self.spec:
            return spec | {"weights": file_hashes(Path(self.spec["path"]))}
        return spec | {"codecs": av.library_versions if self.spec["type"] in STANDARDS else None}


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of a tokenizer's two files."""
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
            for name in ("config.json", "model.safetensors")}


def rate_of(tokenizer: Tokenizer, protocol: Protocol) -> float | None:
    """Bits per pixel of a tokenizer on the protocol's samples; None for a continuous one."""
    if not tokenizer.codebook_size:
        return None
    size = (protocol.num_frames, protocol.size, protocol.size)
    positions = tokenizer.quantizer.positions(tokenizer.grid(size))
    return math.prod(positions) * tokenizer.num_codebooks * math.log2(tokenizer.codebook_size) / math.prod(size)


def tokenizer_contender(path: Path, protocol: Protocol, *, name: str, title: str,
                        training: dict[str, Any] | None = None) -> Contender:
    """A trained tokenizer in its directory.

    Raises:
        FileNotFoundError, ValueError: If it cannot be loaded.
    """
    tokenizer = load_tokenizer(path)
    return Contender(name, title, "tokenizer", {"type": "tokenizer", "path": str(path), "bypass": False},
                     rate=rate_of(tokenizer, protocol), training=training)


def unquantized(contender: Contender) -> Contender:
    """A tokenizer's own latents, decoded as they are."""
    note = "latents that the decoder never saw in training: no strict bound"
    return Contender(f"{contender.name}_unquantized", f"{contender.title}, not quantized", "anchor",
                     contender.spec | {"bypass": True}, notes=(note,))


def reference_of(tokenizers: list[Contender]) -> Contender:
    """One whose rate most of the discrete tokenizers have, the highest such rate.

    Raises:
        ValueError: If there is none.
    """
    rates = Counter(round(one.rate, 9) for one in tokenizers if one.rate)
    if not rates:
        raise ValueError("anchors need a rate, and no tokenizer here is discrete; give one that is.")
    rate = max(rates, key=lambda rate: (rates[rate], rate))
    return next(one for one in tokenizers if one.rate and round(one.rate, 9) == rate)


def untrained_anchors(tokenizers: list[Contender], protocol: Protocol) -> list[Contender]:
    """Thumbnail, x264 and x265 at the rate of :func:`reference_of`; their curves pass all rates of the tokenizers."""
    reference = reference_of(tokenizers)
    tokenizer = load_tokenizer(reference.spec["path"])
    grid = tokenizer.grid((protocol.num_frames, protocol.size, protocol.size))
    bits = bits_per_cell(tokenizer.codebook_size, tokenizer.num_codebooks,
                         positions=tokenizer.quantizer.positions(grid), grid=grid)
    rates = sorted({round(one.rate, 9) for one in tokenizers if one.rate}
                   | {round(factor * reference.rate, 9) for factor in CURVE_FACTORS})
    cells = math.prod(grid) / (protocol.num_frames * protocol.size**2)
    shared = {"reference": round(reference.rate, 9), "curve": [rate for rate in rates
                                                               if rate != round(reference.rate, 9)]}
    anchors = [Contender("thumbnail", "Thumbnail", "anchor", rate=bits * cells, spec=shared | {
        "type": "thumbnail", "stride": tuple(tokenizer.stride), "bits": bits, "cells": cells})]
    for standard in STANDARDS:
        anchors.append(Contender(standard, standard, "anchor", rate=reference.rate, spec=shared | {
            "type": standard, "bits_per_pixel": reference.rate}))
    return anchors


def at_rate(spec: dict[str, Any], rate: float) -> dict[str, Any]:
    """The same untrained codec at another rate, or at the nearest it has below."""
    if spec["type"] == "thumbnail":
        return spec | {"bits": max(1, math.floor(rate / spec["cells"] + 1e-6))}
    return spec | {"bits_per_pixel": rate}


class TokenizerCodec:
    """A tokenizer as pixels -> (reconstruction, indices), and its two halves apart."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer.eval()
        self.codebook_size, self.num_codebooks = tokenizer.codebook_size, tokenizer.num_codebooks
        self.digits, self.config = tokenizer.digits, tokenizer.config

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self.tokenizer(pixels)
        return output.reconstruction, output.indices

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels -> codes."""
        return self.tokenizer.encode(pixels).codes

    def decode(self, codes: Tensor, pixels: Tensor) -> Tensor:
        """Codes -> pixels of the size of ``pixels``."""
        return self.tokenizer.decode(codes, tuple(pixels.shape[2:]))

    def parameters(self) -> dict[str, int]:
        """How many each part has."""
        return {part: sum(parameter.numel() for parameter in getattr(self.tokenizer, part).parameters())
                for part in ("encoder", "quantizer", "decoder")}


class ThumbnailCodec(Thumbnail):
    """The thumbnail, and its two halves apart."""

    config = None

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels -> colours, indices."""
        return super().encode(pixels)

    def decode(self, cells: Any, size: Any) -> Tensor:
        """Colours of cells, or what :meth:`encode` gave -> pixels."""
        if isinstance(cells, tuple):
            cells, size = cells[0], tuple(size.shape[2:])
        return super().decode(cells, size)

    def parameters(self) -> dict[str, int]:
        """It has none."""
        return {"encoder": 0, "quantizer": 0, "decoder": 0}


class StandardCodec(VideoCodec):
    """A video coding standard, and its two halves apart: at the middle quality of its rate factors, not searched."""

    config = None

    def encode(self, pixels: Tensor) -> list[bytes]:
        """Pixels -> streams."""
        frames = ((pixels.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
        return [encode(clip.contiguous(), standard=self.standard, quality=35, preset=self.preset) for clip in frames]

    def decode(self, streams: list[bytes], pixels: Tensor) -> list[Tensor]:
        """Streams -> frames."""
        return [decode(stream, standard=self.standard, size=tuple(pixels.shape[3:])) for stream in streams]

    def parameters(self) -> dict[str, int]:
        """It has none."""
        return {"encoder": 0, "quantizer": 0, "decoder": 0}


def open_codec(spec: dict[str, Any], device: torch.device | str) -> Any:
    """The codec of a contender's spec."""
    if spec["type"] == "tokenizer":
        tokenizer = load_tokenizer(spec["path"])
        if spec["bypass"]:
            tokenizer = Tokenizer(tokenizer.encoder, Identity(dim=tokenizer.quantizer.dim), tokenizer.decoder)
        return TokenizerCodec(tokenizer.to(device))
    if spec["type"] == "thumbnail":
        return ThumbnailCodec(stride=spec["stride"], bits=spec["bits"])
    return StandardCodec(spec["type"], bits_per_pixel=spec["bits_per_pixel"])



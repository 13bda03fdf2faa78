"""The entries of a benchmark: tokenizers and baselines."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor

from toolkit.baselines import VideoCodec
from toolkit.build import build_component, load_tokenizer
from toolkit.contracts import Baseline, constructor_parameters
from toolkit.evaluation.protocol import Protocol
from toolkit.quantizers import Identity
from toolkit.registry import BASELINES
from toolkit.tokenizer import Tokenizer
from toolkit.training.validation import bits_per_pixel

DEFAULT_BASELINES = ("Thumbnail", "x264", "x265")
CURVE_FACTORS = (0.5, 2.0)  # a baseline is also measured at these multiples of its rate
NOT_ARGUMENTS = ("reference", "curve")  # keys of a spec that no constructor takes: the rate to match, other rates


@dataclass(frozen=True)
class Entry:
    """One row of a table: a codec to measure."""

    name: str  # in file names
    title: str  # in tables
    kind: str  # "tokenizer", or "baseline": what tokenizers are compared with
    spec: dict[str, Any]  # JSON values from which build_codec builds the codec
    rate: float | None = None  # bits per pixel of a tokenizer; None without a codebook
    notes: tuple[str, ...] = ()
    training: dict[str, Any] | None = None  # summary of the training, if the run trained it

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the codec: its spec with the hashes of its files, or with FFmpeg's versions."""
        spec = {key: value for key, value in self.spec.items() if key != "path"}
        if "path" in self.spec:
            return spec | {"weights": {
                name: hashlib.sha256(Path(self.spec["path"], name).read_bytes()).hexdigest()
                for name in ("config.json", "model.safetensors")}}
        is_video_codec = issubclass(BASELINES.get(self.spec["type"]), VideoCodec)
        return spec | {"codecs": av.library_versions if is_video_codec else None}  # FFmpeg's versions


def tokenizer_entry(path: str | Path, protocol: Protocol, *, name: str, title: str,
                    training: dict[str, Any] | None = None, revision: str | None = None,
                    subfolder: str | None = None) -> Entry:
    """The entry of a tokenizer, given as to ``load_tokenizer``; its spec's ``source`` has the commit of a hub id."""
    tokenizer = load_tokenizer(path, revision=revision, subfolder=subfolder)
    rate = bits_per_pixel(tokenizer, protocol.sample_size)
    spec = {"type": "tokenizer", "path": os.path.abspath(tokenizer.source.directory), "bypass": False}
    if tokenizer.source.metadata is not None:
        spec["source"] = tokenizer.source.metadata
    return Entry(name, title, "tokenizer", spec, rate=rate, training=training)


def latents_entry(entry: Entry) -> Entry:
    """The entry of a trained tokenizer whose latents are decoded without quantization."""
    note = "the decoder was trained on codes, so this is not a strict upper bound"
    return Entry(f"{entry.name}_unquantized", f"{entry.title}, not quantized", "baseline",
                 entry.spec | {"bypass": True}, notes=(note,))


def baseline_entries(names: list[str], tokenizers: list[Entry], protocol: Protocol) -> list[Entry]:
    """Baselines at the most common rate of the tokenizers; of two equally common rates, the higher one.

    Their curves have the rates of all tokenizers, and CURVE_FACTORS times their own rate.
    """
    rates = Counter(round(entry.rate, 9) for entry in tokenizers if entry.rate)  # rounded: equal rates compare equal
    if not rates:
        raise ValueError("baselines need the rate of a discrete tokenizer, got none; add one.")
    rate = max(rates, key=lambda rate: (rates[rate], rate))
    chosen = next(entry for entry in tokenizers if entry.rate and round(entry.rate, 9) == rate)
    return baselines_at_rate(names, load_tokenizer(chosen.spec["path"]), protocol, other_rates=list(rates))


def baselines_at_rate(names: list[str], tokenizer: Tokenizer, protocol: Protocol, *,
                      other_rates: Sequence[float] = ()) -> list[Entry]:
    """Baselines at the rate of a tokenizer. Their curves have ``other_rates`` and CURVE_FACTORS times their rate."""
    size = protocol.sample_size
    exact_rate = bits_per_pixel(tokenizer, size)
    rate = round(exact_rate, 9)
    curve = sorted({*other_rates, *(round(factor * exact_rate, 9) for factor in CURVE_FACTORS)} - {rate})
    arguments = {"bits_per_pixel": exact_rate, "size": size, "grid": tokenizer.grid(size),
                 "first_frame_alone": tokenizer.encoder.first_frame_alone}
    entries = []
    for name in names:
        parameters = constructor_parameters(BASELINES.get(name))
        spec = {"type": name, "reference": rate, "curve": curve if "bits_per_pixel" in parameters else []}
        spec |= {key: value for key, value in arguments.items() if key in parameters}
        entries.append(Entry(name.lower(), name, "baseline", spec))
    return entries


class TokenizerCodec:
    """A tokenizer with the interface of a baseline."""

    bits_per_pixel = None  # counted from the indices

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer.eval()
        self.codebook_size, self.num_codebooks = tokenizer.codebook_size, tokenizer.num_codebooks
        self.digits = tokenizer.digits

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self.tokenizer(pixels)
        return output.reconstruction, output.indices

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels -> codes."""
        return self.tokenizer.encode(pixels).codes

    def decode(self, codes: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Codes -> pixels of the size (T, H, W)."""
        return self.tokenizer.decode(codes, size)


Codec = TokenizerCodec | Baseline


def build_codec(spec: dict[str, Any], device: torch.device | str) -> Codec:
    """The codec of an entry's spec."""
    if spec["type"] != "tokenizer":
        return build_component(BASELINES, {key: value for key, value in spec.items() if key not in NOT_ARGUMENTS})
    tokenizer = load_tokenizer(spec["path"])
    if spec["bypass"]:  # decode the latents
        tokenizer = Tokenizer(tokenizer.encoder, Identity(dim=tokenizer.quantizer.dim), tokenizer.decoder)
    return TokenizerCodec(tokenizer.to(device))

"""The entries of a benchmark: tokenizers and baselines."""

from __future__ import annotations

import hashlib
from collections import Counter
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
CURVE_FACTORS = (0.5, 2.0)  # times the reference rate: other points of a baseline's rate-distortion curve
NOT_ARGUMENTS = ("reference", "curve")  # in the spec of a baseline: the reference rate, and the other rates


@dataclass(frozen=True)
class Entry:
    """One row of a table: a codec to measure."""

    name: str  # in file names
    title: str  # in tables
    kind: str  # "tokenizer" or "baseline"
    spec: dict[str, Any]  # JSON values from which open_codec builds the codec
    rate: float | None = None  # bits per pixel of a tokenizer; None without a codebook
    notes: tuple[str, ...] = ()
    training: dict[str, Any] | None = None  # summary of the training, if the run trained it

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the scores depend on: hashes of files instead of their paths."""
        spec = {key: value for key, value in self.spec.items() if key != "path"}
        if "path" in self.spec:
            return spec | {"weights": {
                name: hashlib.sha256(Path(self.spec["path"], name).read_bytes()).hexdigest()
                for name in ("config.json", "model.safetensors")}}
        uses_libraries = issubclass(BASELINES.get(self.spec["type"]), VideoCodec)
        return spec | {"codecs": av.library_versions if uses_libraries else None}


def tokenizer_entry(path: Path, protocol: Protocol, *, name: str, title: str,
                    training: dict[str, Any] | None = None) -> Entry:
    """The entry of a tokenizer directory."""
    rate = bits_per_pixel(load_tokenizer(path), protocol.sample_size)
    spec = {"type": "tokenizer", "path": str(path), "bypass": False}
    return Entry(name, title, "tokenizer", spec, rate=rate, training=training)


def unquantized(entry: Entry) -> Entry:
    """The entry of the same tokenizer without its quantizer: the latents are decoded."""
    note = "latents that the decoder never saw in training: no strict bound"
    return Entry(f"{entry.name}_unquantized", f"{entry.title}, not quantized", "baseline",
                 entry.spec | {"bypass": True}, notes=(note,))


def baseline_entries(names: list[str], tokenizers: list[Entry], protocol: Protocol) -> list[Entry]:
    """Baselines at the most common rate of the tokenizers (of equally common ones the highest).

    Their curves include the rates of all tokenizers.
    """
    rates = Counter(round(entry.rate, 9) for entry in tokenizers if entry.rate)
    if not rates:
        raise ValueError("baselines need the rate of a discrete tokenizer, got none; add one.")
    rate = max(rates, key=lambda rate: (rates[rate], rate))
    reference = next(entry for entry in tokenizers if entry.rate and round(entry.rate, 9) == rate)
    curve = sorted({*rates, *(round(factor * reference.rate, 9) for factor in CURVE_FACTORS)} - {rate})
    tokenizer, size = load_tokenizer(reference.spec["path"]), protocol.sample_size
    known = {"bits_per_pixel": reference.rate, "size": size, "grid": tokenizer.grid(size),
             "first_frame_alone": tokenizer.encoder.first_frame_alone}
    entries = []
    for name in names:
        parameters = constructor_parameters(BASELINES.get(name))
        spec = {"type": name, "reference": rate, "curve": curve if "bits_per_pixel" in parameters else []}
        spec |= {key: value for key, value in known.items() if key in parameters}
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


def open_codec(spec: dict[str, Any], device: torch.device | str) -> Codec:
    """The codec of an entry's spec."""
    if spec["type"] != "tokenizer":
        return build_component(BASELINES, {key: value for key, value in spec.items() if key not in NOT_ARGUMENTS})
    tokenizer = load_tokenizer(spec["path"])
    if spec["bypass"]:
        tokenizer = Tokenizer(tokenizer.encoder, Identity(dim=tokenizer.quantizer.dim), tokenizer.decoder)
    return TokenizerCodec(tokenizer.to(device))

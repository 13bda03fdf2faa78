"""Scores of a tokenizer and of untrained baselines over a validation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from toolkit.baselines import MeanColour, Thumbnail
from toolkit.contracts import Column, Metric
from toolkit.data import Batch
from toolkit.metrics.columns import heading, registered_columns
from toolkit.tokenizer import Tokenizer

Codec = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # pixels -> (reconstruction, indices), see as_codec


def as_codec(tokenizer: Tokenizer) -> Codec:
    """The tokenizer as pixels (B, C, T, H, W) -> (reconstruction of that shape, indices)."""
    def codec(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        output = tokenizer(pixels)
        return output.reconstruction, output.indices
    return codec


@torch.no_grad()
def evaluate(codec: Codec, batches: Iterable[Batch], metrics: list[Metric], *, device: torch.device | str = "cpu",
             on_first: Callable[[Tensor, Tensor], None] | None = None) -> dict[str, float]:
    """Scores of fresh metrics over the batches of one pass; each process passes its own batches."""
    for number, batch in enumerate(batches):
        pixels = batch.pixels.to(device)
        reconstruction, indices = codec(pixels)
        if number == 0 and on_first is not None:
            on_first(pixels, reconstruction)
        for metric in metrics:
            metric.update(target=pixels, reconstruction=reconstruction, indices=indices)
    return {name: value for metric in metrics for name, value in metric.compute().items()}


def bits_per_pixel(tokenizer: Tokenizer, size: tuple[int, int, int]) -> float | None:
    """Bits per pixel of fixed-length indices for pixels (T, H, W); None for a continuous tokenizer."""
    if not tokenizer.codebook_size:
        return None
    positions = tokenizer.quantizer.positions(tokenizer.grid(size))
    bits = math.prod(positions) * tokenizer.num_codebooks * math.log2(tokenizer.codebook_size)
    return bits / math.prod(size)


def baseline_scores(tokenizer: Tokenizer, batches: Callable[[], Iterable[Batch]],
                    make_metrics: Callable[[Any], list[Metric]]) -> dict[str, dict[str, float]]:
    """Scores of a thumbnail of about the tokenizer's grid and bits, and of the mean colour; {} without a codebook."""
    if not tokenizer.codebook_size:
        return {}
    sizes = [tuple(batch.pixels.shape[2:]) for batch in islice(batches(), 1)]
    size, *_ = gather_object(sizes)  # a process may have no batch
    grid = tokenizer.grid(size)
    thumbnail = Thumbnail(bits_per_pixel=bits_per_pixel(tokenizer, size), size=size, grid=grid,
                          first_frame_alone=tokenizer.encoder.first_frame_alone)
    codecs = {"thumbnail": thumbnail, "mean colour": MeanColour()}
    return {name: evaluate(codec, batches(), make_metrics(codec)) for name, codec in codecs.items()}


def score_rows(codecs: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Scores as a header and rows of text; undeclared scores with "codebook" in their name are omitted."""
    names = dict.fromkeys(name for scores in codecs.values() for name in scores)
    declared = registered_columns()
    columns = {name: declared.get(name, Column(name)) for name in names if name in declared or "codebook" not in name}
    rows = [[codec, *(format(scores[name] * column.factor, column.format) if name in scores else "-"
                      for name, column in columns.items())] for codec, scores in codecs.items()]
    return ["", *(heading(column) for column in columns.values())], rows


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A header and rows as a Markdown table."""
    first, *others = ["| " + " | ".join(line) + " |" for line in (header, *rows)]
    return "\n".join([first, "|---" * len(header) + "|", *others])

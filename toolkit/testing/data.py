"""Checks of datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from toolkit.contracts import Dataset
from toolkit.testing.checks import Check, check_type, describe
from toolkit.testing.components import check_config, duplicate, seeded


def check_dataset(dataset: Dataset, *, num_samples: int = 4) -> None:
    """Check that a dataset meets its contract; raise ContractViolation if not.

    Its modality; samples with pixels (C, T, H, W) float32 in [-1, 1] of its ``sample_size`` and a key; a length that
    stays; the same samples under the same seed, by which a run is resumed; shares of readers that make up the whole.

    Args:
        num_samples: How many to look at, evenly spaced if it has a length, else the first ones.

    Example:
        >>> from toolkit.data import Images
        >>> check_dataset(Images(size=32, train=False), num_samples=1)   # of the sample clips
    """
    dataset = duplicate(dataset)
    check_type(dataset, Dataset)
    with Check(dataset, "it has images or videos") as checked:
        checked.need(dataset.modality in ("image", "video"), needed="modality 'image' or 'video'",
                     got=f"{dataset.modality!r}", do="set it on the class")
    check_config(dataset)
    with Check(dataset, "it is map-style or iterable, as torch's datasets are",
             do="write __len__ and __getitem__, or __iter__") as checked:
        counted, iterable = hasattr(dataset, "__len__"), hasattr(type(dataset), "__iter__")
        checked.need((counted and hasattr(dataset, "__getitem__")) or iterable,
                     needed="__len__ and __getitem__, or __iter__", got="neither", do="write one of the two")
        if counted:
            length = len(dataset)
            checked.need(length > 0, needed="at least one sample to look at", got="none", do="give it data")
            checked.need(len(dataset) == length, needed="the same length each time", got=f"{length}, then another",
                         do="find the samples once, in the constructor")
    samples, again = (list(_samples(dataset, num_samples)) for _ in range(2))
    for sample in samples:
        _check_sample(dataset, sample)
    with Check(dataset, "under the same seed it gives the same samples") as checked:
        for first, second in zip(samples, again, strict=True):
            checked.need(first["key"] == second["key"] and torch.equal(first["pixels"], second["pixels"]),
                         needed=f"sample {first['key']!r} again", got=f"{second['key']!r} or other pixels",
                         do="draw from torch's global generator, by which a run is seeded and resumed")
    _check_shares(dataset)


def _check_shares(dataset: Dataset) -> None:
    """Compare the shares of two readers with the dataset; an endless dataset passes."""
    with Check(dataset, "the shares of its readers are the data set", do="correct shard(index, count)") as checked:
        shares = [duplicate(dataset).shard(index=index, count=2) for index in range(2)]
        if shares != [None, None]:
            counts = [Counter(sample["key"] for sample in _samples(share, 100)) for share in (dataset, *shares)]
            whole, joined = counts[0], counts[1] + counts[2]
            checked.need(whole.total() == 100 or joined == whole, needed=f"the keys {sorted(whole)[:3]}, ...",
                         got=f"{sorted(joined)[:3]}, ..., {joined.total()} instead of {whole.total()}",
                         do="let shard return a Dataset of every sample that is this reader's")


def _samples(dataset: Dataset, count: int) -> Iterator[dict[str, Any]]:
    with Check(dataset, "its samples can be read"), seeded(0):
        if hasattr(type(dataset), "__iter__"):
            yield from islice(dataset, count)
        else:
            count = min(count, len(dataset))
            yield from (dataset[place * (len(dataset) - 1) // max(count - 1, 1)] for place in range(count))


def _check_sample(dataset: Dataset, sample: Any) -> None:
    with Check(dataset, 'samples are {"pixels": (C, T, H, W) float32 in [-1, 1], "key": str}') as checked:
        checked.need(isinstance(sample, dict) and {"pixels", "key"} <= sample.keys(),
                     needed='a dict with "pixels" and "key"',
                     got=f"{sorted(sample) if isinstance(sample, dict) else type(sample).__name__}",
                     do="return one from __getitem__ or __iter__")
        pixels, key = sample["pixels"], sample["key"]
        checked.need(isinstance(key, str) and bool(key), needed="a key, a str that names the sample", got=f"{key!r}",
                     do="use the file's path")
        checked.need(isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.dtype == torch.float32,
                     needed="pixels (C, T, H, W) of torch.float32", got=describe(pixels),
                     do="keep T = 1 for an image, and convert by pixels / 127.5 - 1")
        checked.need(bool(pixels.numel()) and bool((pixels.abs() <= 1).all()), needed="pixels in [-1, 1]",
                     got=f"{pixels.min().item():.4g} to {pixels.max().item():.4g}" if pixels.numel() else "none",
                     do="convert by pixels / 127.5 - 1, and clamp after a resize")
        size = dataset.sample_size
        checked.need(size is None or tuple(pixels.shape[1:]) == tuple(size), needed=f"its sample_size {size}",
                     got=f"{tuple(pixels.shape[1:])}", do="correct sample_size, None if samples differ")
        checked.need(dataset.modality == "video" or pixels.shape[1] == 1, needed="one frame, as modality is 'image'",
                     got=f"{pixels.shape[1]}", do="set modality to 'video'")

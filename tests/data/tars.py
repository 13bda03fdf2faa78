"""Tars of media, written by webdataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import webdataset


def noise(number: int, *, height: int = 12, width: int = 16) -> np.ndarray:
    """(H, W, 3) uint8, another for each number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_shard(path: Path, samples: Mapping[str, Mapping[str, object]]) -> Path:
    """A tar of samples, key -> {ending: bytes or what webdataset encodes}."""
    with webdataset.TarWriter(str(path)) as tar:
        for key, members in samples.items():
            tar.write({"__key__": key, **members})
    return path


def write_image_shards(folder: Path, *, sizes: Sequence[int]) -> list[Path]:
    """Tars of so many samples each, a PNG of noise and a JSON; their keys count on from 000."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.cumsum([0, *sizes])
    return [write_shard(folder / f"shard-{shard:03d}.tar", {
                f"{number:03d}": {"png": noise(number), "json": {"number": int(number)}}
                for number in range(starts[shard], starts[shard + 1])})
            for shard in range(len(sizes))]

"""Feature vectors of targets and reconstructions, kept so that any number of them fits.

All vectors are kept while they are few. Beyond ``kept`` of them their sums go on exactly, and of the
vectors a sample stays: those whose targets' pixels have the smallest hashes, which is the same sample
whatever the order, the batches and the processes.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.layers.distributed import (
    gather_objects_over_processes,
    num_processes,
    reduction_device,
    sum_over_processes,
)

_versions = itertools.count()


class FeatureSums:
    """Number, sum and sum of outer products of feature vectors (N, D): the sum of ``[x, 1] [x, 1]^T``, in float64."""

    def __init__(self, dim: int):
        self.matrix = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add vectors (N, D) of any float dtype, on any device."""
        extended = F.pad(features.detach().cpu().double(), (0, 1), value=1.0)
        self.matrix.addmm_(extended.T, extended)

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D) of at least two vectors."""
        count = self.matrix[-1, -1]
        mean = self.matrix[-1, :-1] / count
        return mean, (self.matrix[:-1, :-1] - count * torch.outer(mean, mean)) / (count - 1)


def pixel_keys(samples: Tensor) -> Tensor:
    """Samples (N, ...) in [-1, 1] -> (N,) int64 hashes of their pixels, rounded to 256 levels."""
    levels = ((samples.detach() + 1) * 127.5).round().to(torch.uint8).cpu()
    digests = [hashlib.blake2b(sample.numpy().tobytes(), digest_size=8).digest() for sample in levels]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.long)


class FeatureSet:
    """Feature vectors of one set: all of them up to ``kept``, beyond that their sums and a sample."""

    def __init__(self, dim: int, *, kept: int):
        self.dim, self.kept = dim, kept
        self.count, self.checksum = 0, 0
        self._chunks: list[tuple[Tensor, Tensor]] = []  # keys and vectors that stay, with some that do not yet
        self._thinned = False  # one chunk, in order
        self._sums: FeatureSums | None = None  # once there are any, of all vectors

    @property
    def complete(self) -> bool:
        """Whether all vectors are still there."""
        return self.count <= self.kept

    def add(self, features: Tensor, keys: Tensor) -> None:
        """Add vectors (N, D) of any float dtype, on any device, and the keys (N,) of their samples."""
        features = features.detach().cpu()
        if self._sums is not None or self.count + len(features) > self.kept:
            self.sums().add(features)
        self.count += len(features)
        self.checksum = (self.checksum + int(keys.sum())) % 2**64
        self._chunks.append((keys, features))
        self._thinned = False
        if sum(len(chunk) for chunk, _ in self._chunks) > 2 * self.kept:
            self._thin()

    def sums(self) -> FeatureSums:
        """Of all vectors."""
        if self._sums is None:
            self._sums = FeatureSums(self.dim)
            for _, features in self._chunks:
                self._sums.add(features)
        return self._sums

    def sample(self) -> Tensor:
        """The vectors (n, D) that stay, in the order of their keys."""
        return self._thin()[1]

    def _thin(self) -> tuple[Tensor, Tensor]:
        if not self._chunks:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0, self.dim)
        if not self._thinned:
            keys, features = (torch.cat(chunks) for chunks in zip(*self._chunks, strict=True))
            keys, order = keys.sort(stable=True)
            self._chunks, self._thinned = [(keys[:self.kept], features[order[:self.kept]])], True
        return self._chunks[0]

    def copy(self) -> FeatureSet:
        """A copy that shares no state with this one."""
        other = copy.copy(self)
        other._chunks = list(self._chunks)
        other._sums = copy.deepcopy(self._sums)
        return other

    def over_processes(self) -> FeatureSet:
        """The joined set of all processes; all of them must call it."""
        parts = gather_objects_over_processes((self.count, self.checksum, self._thin()))
        joined = FeatureSet(self.dim, kept=self.kept)
        joined.count, joined.checksum = sum(part[0] for part in parts), sum(part[1] for part in parts) % 2**64
        joined._chunks = [chunk for _, _, chunk in parts if len(chunk[0])]
        if not joined.complete:
            joined._sums = FeatureSums(self.dim)
            joined._sums.matrix = sum_over_processes(self.sums().matrix.to(reduction_device())).cpu()
        return joined

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        keys, features = self._thin()
        checksum = self.checksum - 2**64 if self.checksum >= 2**63 else self.checksum  # as int64 has it
        state = {"keys": keys.clone(), "features": features.clone(), "count": torch.tensor(self.count),
                 "checksum": torch.tensor(checksum)}
        return state if self.complete else state | {"sums": self.sums().matrix.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, dim: int, kept: int) -> FeatureSet:
        """The set that gave such a :meth:`state`.

        Raises:
            ValueError: If it is the state of another network's features.
        """
        if state["features"].shape[1] != dim or len(state["keys"]) != len(state["features"]):
            raise ValueError(f"a target's state needs {dim} features of each sample, got "
                             f"{tuple(state['features'].shape)}; load what the same metric saved.")
        features = cls(dim, kept=kept)
        features.count, features.checksum = int(state["count"]), int(state["checksum"]) % 2**64
        features._chunks = [(state["keys"], state["features"])] if len(state["keys"]) else []
        if "sums" in state:
            features._sums = FeatureSums(dim)
            features._sums.matrix = state["sums"].clone()
        return features


class FeatureBlock:
    """The features of targets and of their reconstructions, sample by sample."""

    def __init__(self, dim: int, *, kept: int):
        self.target, self.reconstruction = FeatureSet(dim, kept=kept), FeatureSet(dim, kept=kept)
        self.target_known = False  # loaded, not computed
        self.shared = False  # by several metrics: it is copied before it is added to
        self._changed()

    def add(self, target: Tensor | None, reconstruction: Tensor, *, keys: Tensor) -> None:
        """Add vectors (N, D) and their samples' keys (N,); no target where it is known."""
        if target is not None:
            self.target.add(target, keys)
        self.reconstruction.add(reconstruction, keys)
        self._changed()

    def copy(self) -> FeatureBlock:
        """A copy that shares no state with this one."""
        other = copy.copy(self)
        other.target, other.reconstruction = self.target.copy(), self.reconstruction.copy()
        other.shared = False
        other._changed()
        return other

    def _changed(self) -> None:
        self.version = next(_versions)  # never that of another block, or of this one before
        self.pairs: WeakKeyDictionary[FeatureBlock, tuple[Any, Any]] = WeakKeyDictionary()  # kernel sums, by versions
        self.joined: tuple[list[int], FeatureBlock] | None = None  # versions in all processes, and what they gave

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("pairs", "joined")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._changed()


def over_processes(blocks: Sequence[FeatureBlock]) -> list[FeatureBlock]:
    """Blocks joined over processes, without empty ones; unchanged blocks are not sent. All processes must call it."""
    if num_processes() > 1:
        versions = gather_objects_over_processes([block.version for block in blocks])
        blocks = [_joined(block, list(seen)) for block, seen in zip(blocks, zip(*versions, strict=True), strict=True)]
    return [block for block in blocks if block.target.count or block.reconstruction.count]


def _joined(block: FeatureBlock, versions: list[int]) -> FeatureBlock:
    if block.joined is None or block.joined[0] != versions:
        joined = FeatureBlock(block.target.dim, kept=block.target.kept)
        joined.target, joined.reconstruction = block.target.over_processes(), block.reconstruction.over_processes()
        block.joined = (versions, joined)
    return block.joined[1]

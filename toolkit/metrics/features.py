"""Feature vectors of targets and reconstructions, kept so that any number of them fits.

All vectors are kept while they are few. Beyond ``kept`` of them their sums go on exactly, and of the
vectors a sample stays: those whose targets' pixels have the smallest hashes, which is the same sample
whatever the order, the batches and the processes.
"""

from __future__ import annotations

import copy
import hashlib
import uuid
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.layers.distributed import (
    gather_objects_over_processes,
    num_processes,
    reduction_device,
    sum_over_processes,
)


def add_products(sums: Tensor, features: Tensor) -> Tensor:
    """``sums``, () or (D + 1, D + 1), and the sum of ``[x, 1] [x, 1]^T`` over vectors (N, D), in float64."""
    extended = F.pad(features.double(), (0, 1), value=1.0)
    return torch.addmm(sums, extended.T, extended)


def gaussian(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of at least two vectors, from the sum of their ``[x, 1] [x, 1]^T``."""
    count = sums[-1, -1]
    mean = sums[-1, :-1] / count
    return mean, (sums[:-1, :-1] - count * torch.outer(mean, mean)) / (count - 1)


def pixel_keys(samples: Tensor) -> Tensor:
    """Samples (N, ...) in [-1, 1] -> (N,) int64 hashes of their pixels, rounded to 256 levels."""
    levels = ((samples.detach() + 1) * 127.5).round().to(torch.uint8).cpu()
    digests = [hashlib.blake2b(sample.numpy().tobytes(), digest_size=8).digest() for sample in levels]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.long)


class FeatureSet:
    """Feature vectors, all of them up to ``kept``, beyond that their sums and a sample; additions give a new set."""

    def __init__(self, dim: int, *, kept: int):
        self.dim, self.kept = dim, kept
        self.count, self.checksum = 0, torch.tensor(0)  # the checksum wraps around, as int64 does
        # Keys and vectors: the sample, ordered by keys, then the batches added since.
        self._chunks = [(torch.zeros(0, dtype=torch.long), torch.zeros(0, dim))]
        self._sums = torch.zeros((), dtype=torch.float64)  # of all vectors but those in _not_in_sums
        self._not_in_sums: list[Tensor] = []

    @property
    def complete(self) -> bool:
        """Whether all vectors are still there."""
        return self.count <= self.kept

    @property
    def features(self) -> Tensor:
        """The vectors (n, D) that stay, ordered by their keys."""
        return self._sample()[1]

    def sums(self) -> Tensor:
        """The sum of ``[x, 1] [x, 1]^T`` over all vectors: (D + 1, D + 1) float64."""
        if self._not_in_sums:
            self._sums, self._not_in_sums = add_products(self._sums, torch.cat(self._not_in_sums)), []
        return self._sums

    def plus(self, features: Tensor, keys: Tensor) -> FeatureSet:
        """This set with vectors (N, D) of any float dtype, on any device, and the keys (N,) of their samples."""
        features, joined = features.detach().cpu(), copy.copy(self)
        joined.count, joined.checksum = self.count + len(features), self.checksum + keys.sum()
        joined._chunks, joined._not_in_sums = [*self._chunks, (keys, features)], [*self._not_in_sums, features]
        # Sums and samples of many vectors at once cost less than of each batch.
        num_held = max(sum(map(len, joined._not_in_sums)), sum(len(chunk) for chunk, _ in joined._chunks))
        if num_held > 2 * self.kept:
            joined.sums()
            joined._sample()
        return joined

    def _sample(self) -> tuple[Tensor, Tensor]:
        """Keys (n,) and vectors (n, D) that stay, ordered by keys."""
        if len(self._chunks) > 1:
            keys, features = (torch.cat(chunks) for chunks in zip(*self._chunks, strict=True))
            keys, order = keys.sort(stable=True)
            self._chunks = [(keys[:self.kept], features[order[:self.kept]])]
        return self._chunks[0]

    def over_processes(self) -> FeatureSet:
        """The joined set of all processes; all of them must call it."""
        joined = FeatureSet(self.dim, kept=self.kept)
        for count, checksum, *sample in gather_objects_over_processes((self.count, self.checksum, *self._sample())):
            joined.count, joined.checksum = joined.count + count, joined.checksum + checksum
            joined._chunks.append(tuple(sample))
        if joined.complete:
            joined._not_in_sums = [joined.features]
        else:
            joined._sums = sum_over_processes(self.sums().to(reduction_device())).cpu()
        return joined

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        keys, features = self._sample()
        state = {"keys": keys, "features": features, "count": torch.tensor(self.count), "checksum": self.checksum}
        return state if self.complete else state | {"sums": self.sums()}

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
        features.count, features.checksum = int(state["count"]), state["checksum"]
        features._chunks = [(state["keys"], state["features"])]
        if "sums" in state:
            features._sums = state["sums"]
        else:
            features._not_in_sums = [state["features"]]
        return features


class FeatureBlock:
    """The features of targets and of their reconstructions, sample by sample. They never change, so metrics share it.

    ``target_known``: the target's features were loaded, not computed.
    """

    def __init__(self, target: FeatureSet, reconstruction: FeatureSet, *, target_known: bool = False):
        self.target, self.reconstruction, self.target_known = target, reconstruction, target_known
        self.id = uuid.uuid4().hex  # no block with other features has it
        self.kernel_sums: dict[str, tuple[float, float]] = {}  # of toolkit.metrics.kernel, by the other block's id
        self.joined: tuple[tuple[str, ...], FeatureBlock] | None = None  # ids in all processes, and what they gave

    def plus(self, target: Tensor | None, reconstruction: Tensor, *, keys: Tensor) -> FeatureBlock:
        """This block with vectors (N, D) and their samples' keys (N,); no target where it is known."""
        return FeatureBlock(self.target if target is None else self.target.plus(target, keys),
                            self.reconstruction.plus(reconstruction, keys), target_known=self.target_known)


def over_processes(blocks: Sequence[FeatureBlock]) -> list[FeatureBlock]:
    """Blocks joined over processes, without empty ones; unchanged blocks are not sent. All processes must call it."""
    if num_processes() > 1:
        ids = zip(*gather_objects_over_processes([block.id for block in blocks]), strict=True)
        blocks = [_joined(block, seen) for block, seen in zip(blocks, ids, strict=True)]
    return [block for block in blocks if block.target.count or block.reconstruction.count]


def _joined(block: FeatureBlock, ids: tuple[str, ...]) -> FeatureBlock:
    """The block of this process and those of the others, whose ids are these in rank order."""
    if block.joined is None or block.joined[0] != ids:
        block.joined = ids, FeatureBlock(block.target.over_processes(), block.reconstruction.over_processes())
    return block.joined[1]

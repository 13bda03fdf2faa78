"""How much of its codebook a tokenizer uses, and what its tokens cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from toolkit.contracts import Column, Metric
from toolkit.contracts.pixels import check_float_pixels, describe
from toolkit.layers.distributed import gather_objects_over_processes, sum_numbers_over_processes
from toolkit.metrics.checks import check_mergeable
from toolkit.registry import METRICS

COLLAPSED = 1 / 3  # share of the bound below which an entropy means collapse
NO_INDICES = (torch.bool, torch.complex64, torch.complex128)
Counts = tuple[Tensor, Tensor]  # distinct indices (U,), how often each was seen (U,), both int64 on the CPU


@METRICS.register_module()
class Codebook(Metric):
    """Use of the codebook over a data set. Only the indices seen are stored, so K may be 2^30.

    Scores, averaged over the G codebooks:

    - ``codebook_usage``, ``codebook_dead``: share of the K entries that were used, in [0, 1]; number that were not;
    - ``codebook_entropy``, ``codebook_entropy_min``: of the observed frequencies, in nats; where it is least;
    - ``codebook_perplexity``: exp of the entropy, as many entries used evenly have the same entropy;
    - ``codebook_entropy_bound``: min(ln K, ln N) for N observed positions; no entropy is above it,
      so few samples of a large codebook cannot tell an even use of it;
    - ``codebook_digit_entropy``: the mean over an index's digits (bits, or levels of channels) of each one's
      entropy over the log of its size, in [0, 1]; see :meth:`digit_entropies` for each;
    - ``bits_per_pixel``: log2 K per index, over the pixels (B * T * H * W) they stand for;
    - ``bits_per_second``: the same over the seconds they stand for, if ``fps`` is given.

    Args:
        codebook_size: K of one codebook.
        num_codebooks: G.
        digits: Sizes of an index's digits, most significant first, as a quantizer's; None: one of K.
        fps: Frames per second of the clips; None: they have no rate, as photos.

    Raises:
        ValueError: If the codebook is empty, as a continuous bottleneck's is, the product of the digits is not K, or
            ``fps`` is not above 0.

    Example:
        >>> codebook, pixels = Codebook(codebook_size=8), torch.zeros(1, 3, 1, 4, 4)
        >>> indices = torch.tensor([0, 0, 5, 5]).reshape(1, 1, 2, 2, 1)
        >>> codebook.update(target=pixels, reconstruction=pixels, indices=indices)
        >>> scores = codebook.compute()   # two of eight codes, evenly; four indices of 3 bits for 16 pixels
        >>> scores["codebook_usage"], round(scores["codebook_perplexity"], 3), scores["bits_per_pixel"]
        (0.25, 2.0, 0.75)
    """

    higher_is_better = {"codebook_usage": True, "codebook_dead": False, "codebook_perplexity": True,
                        "codebook_entropy": True, "codebook_entropy_min": True, "codebook_entropy_bound": True,
                        "codebook_digit_entropy": True, "bits_per_pixel": False}
    columns = {"codebook_usage": Column("codes used", ".3g", factor=100, unit="%"),
               "codebook_perplexity": Column("perplexity", ".0f"),
               "bits_per_pixel": Column("bits/pixel", ".4f"), "bits_per_second": Column("kbit/s", ".1f", factor=1e-3)}

    def __init__(self, *, codebook_size: int, num_codebooks: int = 1, digits: Sequence[int] | None = None,
                 fps: float | None = None):
        if codebook_size < 1 or num_codebooks < 1:
            raise ValueError(f"Codebook needs codebook_size and num_codebooks of at least 1, got {codebook_size} and "
                             f"{num_codebooks}; a continuous bottleneck has no codebook, remove Codebook from the "
                             "metrics.")
        self.codebook_size, self.num_codebooks = codebook_size, num_codebooks
        self.digits = (codebook_size,) if digits is None else tuple(digits)
        if math.prod(self.digits) != codebook_size:
            raise ValueError(f"Codebook needs digits whose product is codebook_size={codebook_size}, "
                             f"got {self.digits}.")
        if fps is not None:
            if fps <= 0:
                raise ValueError(f"Codebook needs fps above 0, the frames per second of the clips, got {fps}.")
            self.higher_is_better = self.higher_is_better | {"bits_per_second": False}
        self.columns = {name: column for name, column in self.columns.items() if name in self.higher_is_better}
        self.fps = fps
        self.reset()

    def update(self, *, target: Tensor, reconstruction: Tensor, indices: Tensor | None) -> None:
        """Add the indices (B, *positions, G) in [0, K) of a target (B, C, T, H, W), whose values are not read.

        Raises:
            ValueError: Without indices, if they are no integers or of another codebook, or if the pixels are no float
                tensors (B, C, T, H, W).
        """
        check_float_pixels("Codebook", target, role=" as target")
        check_float_pixels("Codebook", reconstruction, role=" as reconstruction")
        if indices is None:
            raise ValueError("Codebook needs indices, got None: the bottleneck is continuous; "
                             "remove Codebook from the metrics.")
        if target.ndim != 5:
            raise ValueError(f"Codebook takes a target (B, C, T, H, W), got {tuple(target.shape)}; an image is T = 1.")
        if not isinstance(indices, Tensor) or indices.dtype.is_floating_point or indices.dtype in NO_INDICES:
            raise ValueError(f"Codebook takes integer indices as a torch.Tensor, got {describe(indices)}; give those "
                             "of the quantizer.")
        if indices.ndim < 2 or indices.shape[-1] != self.num_codebooks:
            raise ValueError(f"Codebook takes indices (B, *positions, {self.num_codebooks}), got "
                             f"{tuple(indices.shape)}; set num_codebooks to the quantizer's.")
        indices = indices.detach().long()  # torch has no minimum of some small dtypes
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.codebook_size:
            raise ValueError(f"Codebook takes indices in [0, {self.codebook_size}), got {int(indices.min())} "
                             f"to {int(indices.max())}; set codebook_size to the quantizer's.")
        columns = indices.reshape(-1, self.num_codebooks).unbind(1)
        for chunks, column in zip(self._chunks, columns, strict=True):
            ids, counts = column.unique(return_counts=True)
            chunks.append((ids.cpu(), counts.cpu()))
            # Merge only when the new chunks outweigh the old one, so that the total cost is n log n.
            if sum(len(ids) for ids, _ in chunks[1:]) > max(len(chunks[0][0]), 1 << 12):
                chunks[:] = [_merge(chunks)]
        self._pixels += target[:, 0].numel()
        self._frames += target[:, 0, :, 0, 0].numel()

    def compute(self) -> dict[str, float]:
        """The scores of all indices of all processes; ValueError if there are none."""
        books, pixels, frames = self._all()
        positions = int(books[0][1].sum())  # N
        bits = positions * self.num_codebooks * math.log2(self.codebook_size)
        used = sum(len(ids) for ids, _ in books) / self.num_codebooks
        entropies = [_entropy(counts) for _, counts in books]
        shares = [entropy / math.log(size) for digits in self._by_digit(books)
                  for entropy, size in zip(digits, self.digits, strict=True) if size > 1]
        return {
            "codebook_usage": used / self.codebook_size,
            "codebook_dead": self.codebook_size - used,
            "codebook_perplexity": sum(map(math.exp, entropies)) / self.num_codebooks,
            "codebook_entropy": sum(entropies) / self.num_codebooks,
            "codebook_entropy_min": min(entropies),
            "codebook_entropy_bound": math.log(min(self.codebook_size, positions)),
            "codebook_digit_entropy": sum(shares) / max(len(shares), 1),
            "bits_per_pixel": bits / pixels,
            **({} if self.fps is None else {"bits_per_second": bits / frames * self.fps}),
        }

    def num_samples(self) -> int:
        """How many positions all processes have added."""
        return int(sum_numbers_over_processes([sum(int(counts.sum()) for _, counts in self._chunks[0])])[0])

    def merged(self, others: Sequence[Metric]) -> Codebook:
        check_mergeable(self, others)
        merged, parts = copy.copy(self), (self, *others)
        merged._chunks = [[chunk for part in parts for chunk in part._chunks[book]]
                          for book in range(self.num_codebooks)]
        merged._pixels, merged._frames = sum(part._pixels for part in parts), sum(part._frames for part in parts)
        return merged

    def digit_entropies(self) -> list[list[float]]:
        """For each codebook the entropy in nats of each digit of its indices, most significant first."""
        return self._by_digit(self._all()[0])

    def counts(self) -> list[Tensor]:
        """For each codebook the counts of its used codes over all processes, descending: (U,) int64."""
        return [counts.sort(descending=True).values for _, counts in self._all()[0]]

    def _all(self) -> tuple[list[Counts], int, int]:
        """Counts of each codebook, and numbers of pixels and frames, over all processes."""
        for chunks in self._chunks:
            chunks[:] = [_merge(chunks)]
        parts = gather_objects_over_processes((self._chunks, self._pixels, self._frames))
        books = [_merge([chunk for part in parts for chunk in part[0][book]]) for book in range(self.num_codebooks)]
        if not len(books[0][0]):
            raise ValueError("Codebook has no indices; call update first.")
        return books, sum(part[1] for part in parts), sum(part[2] for part in parts)

    def _by_digit(self, books: list[Counts]) -> list[list[float]]:
        entropies, place = [[] for _ in books], self.codebook_size
        for size in self.digits:
            place //= size
            for digits, (ids, counts) in zip(entropies, books, strict=True):
                digits.append(_entropy(_merge([(ids // place % size, counts)])[1]))
        return entropies

    def reset(self) -> None:
        none = torch.zeros(0, dtype=torch.long)
        self._chunks: list[list[Counts]] = [[(none, none)] for _ in range(self.num_codebooks)]
        self._pixels, self._frames = 0, 0

    def state_dict(self) -> dict[str, Any]:
        """What this process has counted, in types that load with ``weights_only``."""
        return {"chunks": [list(chunks) for chunks in self._chunks], "pixels": self._pixels, "frames": self._frames}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.reset()
        for own, chunks in zip(self._chunks, state["chunks"], strict=True):
            own += map(tuple, chunks)
        self._pixels, self._frames = state["pixels"], state["frames"]


def _entropy(counts: Tensor) -> float:
    """Entropy of frequencies in nats."""
    p = counts.double() / counts.sum()
    return max(float(-torch.xlogy(p, p).sum()), 0.0)  # one used entry gives -0.0


def collapse_of(scores: Mapping[str, float]) -> str | None:
    """Warning that a codebook has collapsed, from :meth:`Codebook.compute`'s scores; None if none has.

    It has if its entropy is below a third of its bound.

    Example:
        >>> bound = math.log(4096)
        >>> collapse_of({"codebook_entropy_min": 0.4, "codebook_entropy_bound": bound, "codebook_dead": 4091.0})
        'a codebook has collapsed: its entropy is 0.40 of at most 8.32 nats, as if 1.5 codes were used ...'
        >>> collapse_of({"codebook_entropy_min": 6.8, "codebook_entropy_bound": bound, "codebook_dead": 9.0})
    """
    entropy, bound = scores.get("codebook_entropy_min"), scores.get("codebook_entropy_bound")
    if entropy is None or entropy >= COLLAPSED * bound:
        return None
    return (f"a codebook has collapsed: its entropy is {entropy:.2f} of at most {bound:.2f} nats, as if "
            f"{math.exp(entropy):.2g} codes were used evenly; {scores['codebook_dead']:.0f} are never used")


def _merge(chunks: list[Counts]) -> Counts:
    ids, where = torch.cat([ids for ids, _ in chunks]).unique(return_inverse=True)
    return ids, torch.zeros_like(ids).index_add_(0, where, torch.cat([counts for _, counts in chunks]))

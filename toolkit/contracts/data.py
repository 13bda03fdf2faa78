"""Datasets and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from toolkit.contracts.component import Component


class DataError(Exception):
    """Data that cannot be read; the message names the file if one is the cause.

    Example:
        >>> raise DataError("clip.mp4: no video stream.")
        Traceback (most recent call last):
        toolkit.contracts.data.DataError: clip.mp4: no video stream.
    """

    path: str | None = None  # of the file; None if only the message has it


@dataclass(frozen=True)
class Column:
    """How a table shows one score.

    Attributes:
        label: Head of the column.
        format: Of the number, as in :func:`format`.
        factor: The score is multiplied by it before it is shown.
        unit: Written after the label, such as ``"dB"``.

    Example:
        >>> column = Column("usage", format=".1f", factor=100, unit="%")
        >>> format(column.factor * 0.256, column.format)
        '25.6'
    """

    label: str
    format: str = ".4g"
    factor: float = 1.0
    unit: str = ""


class Metric(Component, ABC):
    """A running score over a data set; sums are float64 and reduced over processes.

    A metric that has :meth:`merged` and :meth:`num_samples` gets confidence intervals. One that has
    :meth:`target_state` sees the targets once, however many tokenizers are compared on them.

    Attributes:
        higher_is_better: name of a score -> whether more of it is better.
        columns: name of a score -> its column; a benchmark's tables show only these scores. Empty: all scores.

    Example:
        >>> Metric.__abstractmethods__ == {"update", "compute", "reset"}   # what an author writes
        True
    """

    higher_is_better: dict[str, bool]
    columns: dict[str, Column] = {}

    @abstractmethod
    def update(self, *, target: Tensor, reconstruction: Tensor, indices: Tensor | None) -> None:
        """Add a batch: pixels (B, C, T, H, W) in [-1, 1] and indices (B, *positions, G)."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Name -> score of everything added so far, by every process."""

    @abstractmethod
    def reset(self) -> None:
        """Drop all samples."""

    def merged(self, others: Sequence[Metric]) -> Metric:
        """A new metric of all samples of this one and ``others``, which have the same config; none is changed."""
        raise NotImplementedError(f"{type(self).__name__} has no merged, so its scores have no intervals; write "
                                  "merged(others) and num_samples() for them.")

    def num_samples(self) -> int:
        """Number of samples added, summed over processes."""
        raise NotImplementedError(f"{type(self).__name__} has no num_samples, so its scores have no intervals; "
                                  "write merged(others) and num_samples() for them.")

    def target_state(self) -> dict[str, Tensor] | None:
        """State of this process computed from the targets, or None if every metric must see the targets."""
        return None

    def load_target_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the :meth:`target_state` (not None) of a metric that has seen the same targets."""
        raise NotImplementedError(f"{type(self).__name__} has no load_target_state; write it beside target_state.")


class Dataset(Component, ABC):
    """Samples ``{"pixels": (C, T, H, W) float32 in [-1, 1], "key": str}``.

    Map-style (``__len__`` and ``__getitem__``) or iterable (``__iter__``), as torch's. A file that cannot be read
    raises :class:`DataError` with its path.

    Attributes:
        modality: "image" or "video"; scalars are logged per modality.
        sample_size: (T, H, W) of every sample, or None if it varies.

    Example:
        >>> import torch
        >>> class Grey(Dataset):
        ...     modality, sample_size = "image", (1, 8, 8)
        ...     def __getitem__(self, index): return {"pixels": torch.zeros(3, 1, 8, 8), "key": "grey"}
        >>> Grey()[0]["key"], Grey().shard(index=0, count=2), Grey().state_dict()
        ('grey', None, None)
    """

    modality: str
    sample_size: tuple[int, int, int] | None = None

    def shard(self, index: int, count: int) -> Dataset | None:
        """For iterable datasets: the samples of reader ``index`` of ``count``.

        None: not supported. Every process and worker then reads all samples and keeps each ``count``-th.
        """
        return None

    def state_dict(self) -> dict[str, Any] | None:
        """For iterable datasets: the position, to be saved with a checkpoint.

        None: the position is in the iterator, if that has ``state_dict`` and ``load_state_dict``; otherwise the
        samples before it are read again on resume.
        """
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was saved; called before ``iter``."""
        raise NotImplementedError(f"{type(self).__name__} has a state_dict but no load_state_dict; write both.")

"""Data sets and the scores over them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from toolkit.parts import Part


class DataError(Exception):
    """A file that cannot be read as what it should be; the message names its path.

    Example:
        >>> raise DataError("clip.mp4: no video stream.")
        Traceback (most recent call last):
        toolkit.contracts.data.DataError: clip.mp4: no video stream.
    """


class Metric(Part, ABC):
    """A running score over a data set; sums are float64 and reduced over processes.

    Attributes:
        higher_is_better: name of a score -> whether more of it is better.

    Example:
        >>> Metric.__abstractmethods__ == {"update", "compute", "reset"}   # what an author writes
        True
    """

    higher_is_better: dict[str, bool]

    @abstractmethod
    def update(self, *, target: Tensor, reconstruction: Tensor, indices: Tensor | None) -> None:
        """Add a batch: pixels (B, C, T, H, W) in [-1, 1] and indices (B, *positions, G)."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Name -> score of everything added so far, by every process."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""


class Dataset(Part, ABC):
    """Samples ``{"pixels": (C, T, H, W) float32 in [-1, 1], "key": str}``.

    Map-style (``__len__`` and ``__getitem__``) or iterable (``__iter__``), as torch's. A file that
    cannot be read raises :class:`DataError` with its path.

    Attributes:
        modality: "image" or "video"; scalars are logged per modality.

    Example:
        >>> import torch
        >>> class Grey(Dataset):
        ...     modality = "image"
        ...     def __getitem__(self, index): return {"pixels": torch.zeros(3, 1, 8, 8), "key": "grey"}
        >>> Grey()[0]["key"]
        'grey'
    """

    modality: str

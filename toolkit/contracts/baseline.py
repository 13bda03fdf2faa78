"""Codecs without training, against which tokenizers are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from toolkit.contracts.component import Component


class Baseline(Component, ABC):
    """A codec that is not trained: pixels to a reconstruction at a known rate.

    Attributes:
        bits_per_pixel: Bits per pixel (T * H * W), or None if it is counted from the indices.

    Example:
        >>> import torch
        >>> class Copy(Baseline):
        ...     bits_per_pixel = 24.0
        ...     def __call__(self, pixels): return pixels, None
        >>> Copy()(torch.zeros(1, 3, 1, 2, 2))[0].shape
        torch.Size([1, 3, 1, 2, 2])
    """

    bits_per_pixel: float | None = None

    @abstractmethod
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pixels (B, C, T, H, W) in [-1, 1] -> their reconstruction, of that shape, and indices (B, ..., G) or None."""

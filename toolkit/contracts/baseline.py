"""Codecs without training, against which tokenizers are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from toolkit.contracts.component import Component


class Baseline(Component, ABC):
    """A codec that is not trained: pixels to a reconstruction at a known rate.

    A benchmark passes these arguments if the constructor has them: ``bits_per_pixel``, the rate of the tokenizers (the
    baseline is then measured at several rates); ``size``, (T, H, W) of the pixels; ``grid``, (t, h, w) of a tokenizer's
    latents; ``first_frame_alone``. Speed is measured if it has :meth:`encode` and :meth:`decode`.

    Attributes:
        bits_per_pixel: Bits per pixel (T * H * W) of everything coded so far, or None if counted from the indices.
        codebook_size, num_codebooks, digits: Of its indices, as a quantizer's; codebook_size 0: no indices.

    Example:
        >>> import torch
        >>> class Copy(Baseline):
        ...     bits_per_pixel = 24.0
        ...     def __call__(self, pixels): return pixels, None
        >>> Copy()(torch.zeros(1, 3, 1, 2, 2))[0].shape
        torch.Size([1, 3, 1, 2, 2])
    """

    bits_per_pixel: float | None = None
    codebook_size: int = 0
    num_codebooks: int = 1
    digits: tuple[int, ...] = ()

    @abstractmethod
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pixels (B, C, T, H, W) in [-1, 1] -> their reconstruction, of that shape, and indices (B, ..., G) or None."""

    def encode(self, pixels: Tensor) -> Any:
        """Pixels (B, C, T, H, W) -> the codes for :meth:`decode`, such as tensors or a list of bytes."""
        raise NotImplementedError(f"{type(self).__name__} has no encode, so its speed is not measured.")

    def decode(self, codes: Any, size: tuple[int, int, int]) -> Tensor:
        """Codes from :meth:`encode` -> pixels (B, C, T, H, W) of the size (T, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has no decode, so its speed is not measured.")

"""Outputs of quantizers and tokenizers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class QuantizerOutput:
    """Output of a quantizer.

    Attributes:
        codes: (B, d, t, h, w), the quantized latents in the latents' dtype.
        indices: (B, *positions, G) int64 in [0, K), or None for a continuous bottleneck.
        losses: name -> () float32, unweighted; empty in eval mode.

    Example:
        >>> import torch
        >>> QuantizerOutput(torch.ones(1, 2, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1, dtype=torch.int64)).losses
        {}
    """

    codes: Tensor
    indices: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class TokenizerOutput:
    """Output of a tokenizer's forward.

    Attributes:
        reconstruction: (B, C, T, H, W), the input's own shape, about [-1, 1], not clamped.
        latents: (B, d, t, h, w), the encoder's output.
        codes: (B, d, t, h, w), the quantized latents.
        indices: (B, *positions, G) int64, or None for a continuous bottleneck.
        losses: the quantizer's losses, name -> () float32.

    Example:
        >>> import torch
        >>> TokenizerOutput(*[torch.zeros(1, 3, 1, 8, 8)] * 3, indices=None).losses
        {}
    """

    reconstruction: Tensor
    latents: Tensor
    codes: Tensor
    indices: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)

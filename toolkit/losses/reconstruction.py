"""Pixel distances of a reconstruction from its target."""

from __future__ import annotations

from torch import Tensor

from toolkit.contracts import Loss, TokenizerOutput
from toolkit.registry import LOSSES


def _difference(loss: Loss, output: TokenizerOutput, target: Tensor) -> Tensor:
    """Reconstruction minus target, (B, C, T, H, W) float32. Shapes must be equal: nothing is broadcast."""
    if output.reconstruction.shape != target.shape:
        raise ValueError(f"{type(loss).__name__} needs equal shapes, got a reconstruction "
                         f"{tuple(output.reconstruction.shape)} and a target {tuple(target.shape)}; "
                         "crop the reconstruction to its input.")
    return output.reconstruction.float() - target.detach().float()


@LOSSES.register_module()
class L1(Loss):
    """Mean absolute error of the pixels. It raises a ValueError if the shapes differ.

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 3, 1, 2, 2)
        >>> L1()(TokenizerOutput(x + 0.5, x, x, None), x).item()
        0.5
    """

    def forward(self, output: TokenizerOutput, target: Tensor) -> Tensor:
        """Mean of ``|reconstruction - target|`` over (B, C, T, H, W) in [-1, 1] -> () float32 in [0, 2]."""
        return _difference(self, output, target).abs().mean()


@LOSSES.register_module()
class L2(Loss):
    """Mean squared error of the pixels. It raises a ValueError if the shapes differ.

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 3, 1, 2, 2)
        >>> L2()(TokenizerOutput(x + 0.5, x, x, None), x).item()
        0.25
    """

    def forward(self, output: TokenizerOutput, target: Tensor) -> Tensor:
        """Mean of ``(reconstruction - target)^2`` over (B, C, T, H, W) in [-1, 1] -> () float32 in [0, 4]."""
        return _difference(self, output, target).square().mean()

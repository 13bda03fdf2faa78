"""Base class of quantizers that consist of quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import mean

import torch
from torch import Tensor, nn

from toolkit.contracts import Quantizer


class Composite(Quantizer):
    """Several quantizers as one; its indices are the children's, concatenated along the codebooks.

    Child i has weight w_i for a loss. Over the children with that loss, the composite's weight w is the mean of w_i and
    its loss is the mean of (w_i / w) loss_i. So w * loss is the mean of w_i * loss_i. If all w_i are 0, w_i / w is 1.
    """

    digits: tuple[int, ...] = ()  # hides the base class's property; the children's if equal, else (K,)

    def __init__(self, quantizers: Sequence[Quantizer]):
        super().__init__()
        name = type(self).__name__
        if not quantizers or not all(isinstance(child, Quantizer) for child in quantizers):
            raise ValueError(f"{name} needs one or more quantizers, got {quantizers!r}; set quantizers=[...].")
        for child in quantizers:
            if not child.codebook_size or type(child).quantize_grid is not Quantizer.quantize_grid:
                raise ValueError(f"{name} needs discrete quantizers with indices on the grid, got "
                                 f"{type(child).__name__}.")
        if len(sizes := {child.codebook_size for child in quantizers}) > 1:
            raise ValueError(f"{name} needs quantizers of one codebook_size, got {sorted(sizes)}.")
        self.quantizers = nn.ModuleList(quantizers)
        self.codebook_size = quantizers[0].codebook_size
        self._codebook_ends = list(accumulate(child.num_codebooks for child in quantizers))
        self.num_codebooks = self._codebook_ends[-1]
        child_digits = {child.digits for child in quantizers}
        self.digits = child_digits.pop() if len(child_digits) == 1 else (self.codebook_size,)
        self.loss_weights = {}
        for loss in dict.fromkeys(loss for child in quantizers for loss in child.loss_weights):
            weights = [child.loss_weights[loss] for child in quantizers if loss in child.loss_weights]
            self.loss_weights[loss] = mean(weights)
            if any(weights) and not self.loss_weights[loss]:
                raise ValueError(f"{name} needs loss weights whose mean is not 0, got {weights} for {loss!r}; "
                                 "use quantizers with weights of one sign.")

    def _per_child(self, indices: Tensor) -> list[Tensor]:
        """Indices (B, N, G), or those of the first children only -> one non-empty tensor for each of these."""
        return [part for part in indices.tensor_split(self._codebook_ends, dim=-1) if part.shape[-1]]

    def _merge(self, losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of each child -> the losses of the composite."""
        merged = {}
        for name, mean_weight in self.loss_weights.items():
            scaled = [(child.loss_weights[name] / mean_weight if mean_weight else 1.0) * child_losses[name]
                      for child, child_losses in zip(self.quantizers, losses, strict=True) if name in child_losses]
            if scaled:
                merged[name] = torch.stack(scaled).mean()
        return merged

"""What quantizers made of quantizers share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import torch
from torch import Tensor, nn

from toolkit.contracts import Quantizer


class Composite(Quantizer):
    """Several grid quantizers as one; an index of it is theirs, side by side.

    Of each named loss it returns the mean over the children that have it, in such proportions that, with its
    own weight, the mean of theirs, it counts as the mean of the children's weighted losses.

    Args:
        quantizers: The children, of one codebook size.

    Raises:
        ValueError: If there are none, or one has no grid of indices, or sizes differ, or loss weights cancel out.

    Example:
        >>> Composite.__abstractmethods__ == {"quantize", "lookup"}
        True
    """

    def __init__(self, quantizers: Sequence[Quantizer]):
        super().__init__()
        name = type(self).__name__
        if not quantizers or not all(isinstance(child, Quantizer) for child in quantizers):
            raise ValueError(f"{name} needs quantizers=[...], one or more of them, got {quantizers!r}.")
        for child in quantizers:
            if not child.codebook_size or type(child).quantize_grid is not Quantizer.quantize_grid:
                raise ValueError(f"{name} takes quantizers with an index at each position, got "
                                 f"{type(child).__name__}, which has none.")
        if len(sizes := {child.codebook_size for child in quantizers}) > 1:
            raise ValueError(f"{name} needs quantizers of one codebook_size, got {sorted(sizes)}.")
        self.quantizers = nn.ModuleList(quantizers)
        self.codebook_size = quantizers[0].codebook_size
        self.num_codebooks = sum(child.num_codebooks for child in quantizers)
        weights: dict[str, list[float]] = {}
        for child in quantizers:
            for loss, weight in child.loss_weights.items():
                weights.setdefault(loss, []).append(weight)
        self.loss_weights = {loss: mean(given) for loss, given in weights.items()}
        if cancelled := [loss for loss, given in weights.items() if any(given) and not self.loss_weights[loss]]:
            raise ValueError(f"{name} needs loss weights that do not cancel out, got {weights[cancelled[0]]} of "
                             f"{cancelled[0]!r}; give its quantizers weights of one sign.")

    @property
    def digits(self) -> tuple[int, ...]:
        """The children's, where they agree."""
        kinds = {child.digits for child in self.quantizers}
        return kinds.pop() if len(kinds) == 1 else (self.codebook_size,)

    def _split(self, indices: Tensor) -> list[Tensor]:
        """(B, N, G) -> each child's share of the codebooks, for as many children as there are."""
        sizes, left = [], indices.shape[-1]
        for child in self.quantizers:
            if left:
                sizes.append(child.num_codebooks)
                left -= child.num_codebooks
        return list(indices.split(sizes, dim=-1))

    def _merge(self, losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The children's losses as the composite's."""
        merged = {}
        for name, mean_weight in self.loss_weights.items():
            found = [(child.loss_weights[name], loss[name])
                     for child, loss in zip(self.quantizers, losses, strict=True) if name in loss]
            if found:
                shares = [(weight / mean_weight if mean_weight else 1.0) * loss for weight, loss in found]
                merged[name] = torch.stack(shares).mean()
        return merged

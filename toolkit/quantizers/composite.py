"""Quantizers that consist of quantizers: for groups of channels, and for residuals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import mean

import torch
from torch import Tensor, nn

from toolkit.contracts import Quantizer
from toolkit.layers import from_first_process
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS


class Composite(Quantizer):
    """Several quantizers as one; its indices are the children's, concatenated along the codebooks.

    The weight w of a loss is the mean of the children's weights w_i of it, and the loss is the mean of
    (w_i / w) loss_i over the children that have it. So w * loss is the mean of the children's w_i * loss_i.
    """

    digits: tuple[int, ...] = ()  # the children's if they are all the same, else one digit

    def __init__(self, quantizers: Sequence[Quantizer]):
        super().__init__()
        name = type(self).__name__
        if not quantizers or not all(isinstance(child, Quantizer) for child in quantizers):
            raise ValueError(f"{name} needs one or more quantizers, got {quantizers!r}; set quantizers=[...].")
        for child in quantizers:
            if not child.codebook_size or type(child).quantize_grid is not Quantizer.quantize_grid:
                raise ValueError(f"{name} needs quantizers with an index at each position, got "
                                 f"{type(child).__name__}, which has none.")
        if len(sizes := {child.codebook_size for child in quantizers}) > 1:
            raise ValueError(f"{name} needs quantizers of one codebook_size, got {sorted(sizes)}.")
        self.quantizers = nn.ModuleList(quantizers)
        self.codebook_size = quantizers[0].codebook_size
        self._ends = list(accumulate(child.num_codebooks for child in quantizers))
        self.num_codebooks = self._ends[-1]
        child_digits = {child.digits for child in quantizers}
        self.digits = child_digits.pop() if len(child_digits) == 1 else (self.codebook_size,)
        self.loss_weights = {}
        for loss in dict.fromkeys(loss for child in quantizers for loss in child.loss_weights):
            weights = [child.loss_weights[loss] for child in quantizers if loss in child.loss_weights]
            self.loss_weights[loss] = mean(weights)
            if any(weights) and not self.loss_weights[loss]:
                raise ValueError(f"{name} needs loss weights whose mean is not 0, got {weights} for {loss!r}; "
                                 "use quantizers with weights of one sign.")

    def _split(self, indices: Tensor) -> list[Tensor]:
        """Indices (B, N, G), or those of the first children only -> one tensor for each of these children."""
        return [part for part in indices.tensor_split(self._ends, dim=-1) if part.shape[-1]]

    def _merge(self, losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of each child -> the losses of the composite."""
        merged = {}
        for name, mean_weight in self.loss_weights.items():
            scaled = [(child.loss_weights[name] / mean_weight if mean_weight else 1.0) * child_losses[name]
                      for child, child_losses in zip(self.quantizers, losses, strict=True) if name in child_losses]
            if scaled:
                merged[name] = torch.stack(scaled).mean()
        return merged


@QUANTIZERS.register_module()
class Grouped(Composite):
    """Groups of channels, each quantized alone (HiFi-Codec, arXiv:2305.02765).

    With LFQ children it is WeTok's group-wise quantization (arXiv:2508.05599): its entropies are over the 2^bits
    codes of each group. A loss is the mean of the children's (weighted as :class:`Composite` says). The codebooks of
    the indices are the children's, in the order of the channels.

    Args:
        quantizers: The children, of one codebook size; d is the sum of their dims.

    Raises:
        ValueError: If there are none, or they do not fit each other.

    Example:
        >>> from toolkit.quantizers import LFQ
        >>> grouped = Grouped(quantizers=[LFQ(bits=2), LFQ(bits=2)]).eval()
        >>> grouped(torch.tensor([1.0, -1.0, -1.0, 1.0]).reshape(1, 4, 1, 1, 1)).indices.flatten().tolist()
        [2, 1]
    """

    def __init__(self, *, quantizers: Sequence[Quantizer]):
        super().__init__(quantizers)
        self.dim = sum(child.dim for child in quantizers)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        groups = z.split([child.dim for child in self.quantizers], dim=-1)
        outputs = [child.quantize(group) for child, group in zip(self.quantizers, groups, strict=True)]
        codes, indices, losses = zip(*outputs, strict=True)
        return torch.cat(codes, dim=-1), torch.cat(indices, dim=-1), self._merge(losses)

    def lookup(self, indices: Tensor) -> Tensor:
        children = zip(self.quantizers, self._split(indices), strict=True)
        return torch.cat([child.lookup(child_indices) for child, child_indices in children], dim=-1)


@QUANTIZERS.register_module()
class Residual(Composite):
    """Residual quantization: each child quantizes the residual of those before it (arXiv:2107.03312, algorithm 1).

    The code is the sum of the children's codes. Gradients pass the sum; each child's codebook learns from its own
    losses on its residual. A loss is the mean of the children's (weighted as :class:`Composite` says). The first
    codebooks of the indices alone decode to a coarser code.

    Quantize dropout: the code of a training batch is the sum of the first n children only, so that the first
    codebooks alone decode well. n is random and the same on all processes. Indices and losses are of all children.

    Args:
        quantizers: The children, coarsest first, of one dim and codebook size.
        scales: Factor of each child's codes; the child sees the residual divided by it. None: 1 for each.
        quantize_dropout: Share of training batches with quantize dropout, in [0, 1].
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If the children do not fit each other, or a number is out of range.

    Example:
        >>> from toolkit.quantizers import LFQ
        >>> residual = Residual(quantizers=[LFQ(bits=2), LFQ(bits=2, scale=0.5)]).eval()
        >>> output = residual(torch.tensor([0.7, -1.8]).reshape(1, 2, 1, 1, 1))
        >>> output.codes.flatten().tolist(), output.indices.flatten().tolist()
        ([0.5, -1.5], [2, 0])
    """

    def __init__(self, *, quantizers: Sequence[Quantizer], scales: Sequence[float] | None = None,
                 quantize_dropout: float = 0.0, rotation_trick: bool = False):
        super().__init__(quantizers)
        if len(dims := {child.dim for child in quantizers}) > 1:
            raise ValueError(f"Residual needs quantizers of one dim, got {sorted(dims)}.")
        scales = [1.0] * len(quantizers) if scales is None else list(scales)
        if len(scales) != len(quantizers) or min(scales) <= 0:
            raise ValueError(f"Residual needs {len(quantizers)} positive scales, one for each quantizer, got {scales}.")
        if not 0 <= quantize_dropout <= 1:
            raise ValueError(f"Residual needs quantize_dropout in [0, 1], got {quantize_dropout}.")
        self.dim, self.scales = quantizers[0].dim, scales
        self.quantize_dropout, self.rotation_trick = quantize_dropout, rotation_trick

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        residual, child_codes, indices, losses = z, [], [], []
        for child, scale in zip(self.quantizers, self.scales, strict=True):
            codes, child_indices, child_losses = child.quantize(residual / scale)
            child_codes.append(codes.detach() * scale)
            residual = residual - child_codes[-1]
            indices.append(child_indices)
            losses.append(child_losses)
        num_summed = len(self.quantizers)
        if self.training and self.quantize_dropout:
            dropout, num_kept = torch.rand(()) < self.quantize_dropout, torch.randint(1, num_summed + 1, ())
            num_summed = int(from_first_process(torch.where(dropout, num_kept, num_summed).to(z.device)))
        codes = sum(child_codes[:num_summed])
        if self.training:
            codes = straight_through(z, codes, rotation_trick=self.rotation_trick)
        return codes, torch.cat(indices, dim=-1), self._merge(losses)

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, G), or those of the first children only -> codes (B, N, d)."""
        children = zip(self.quantizers, self._split(indices), self.scales, strict=False)
        return sum(child.lookup(child_indices) * scale for child, child_indices, scale in children)

    def _accepts_codebooks(self, num_codebooks: int) -> bool:
        return num_codebooks in self._ends

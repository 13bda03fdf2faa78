"""Grouped quantization: channels in groups, each with its own quantizer (arXiv:2508.05599; arXiv:2305.02765)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.contracts import Quantizer
from toolkit.quantizers.composite import Composite
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class Grouped(Composite):
    """Groups of channels, each quantized alone (HiFi-Codec, arXiv:2305.02765).

    With LFQ children it is WeTok's group-wise quantization (arXiv:2508.05599): its entropies are over the 2^bits
    codes of each group. A loss is the mean of the children's (weighted as :class:`Composite` says). The last
    axis of the indices lists the children's codebooks in channel order.

    Args:
        quantizers: The children, of one codebook size; d is the sum of their dims.

    Raises:
        ValueError: If there are none, or their codebook sizes differ.

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
        children = zip(self.quantizers, self._per_child(indices), strict=True)
        return torch.cat([child.lookup(child_indices) for child, child_indices in children], dim=-1)

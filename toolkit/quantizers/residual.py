"""Residual quantization (SoundStream, Zeghidour et al., arXiv:2107.03312)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from toolkit.contracts import Quantizer
from toolkit.layers import from_first_process
from toolkit.quantizers.composite import Composite
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class Residual(Composite):
    """Residual quantization: each quantizer takes what those before it left (arXiv:2107.03312, algorithm 1).

    The codes are the sum of the children's, and gradients pass the sum as a whole; the children's own
    codebooks learn by their own losses, each on its residual. An index's columns are the children's, coarsest
    first, and the first columns alone decode to a coarser code.

    Losses: the mean over the children of each one's. With quantize dropout a training batch is decoded from its
    first levels only, as many as one draw for all processes says, so that the first columns alone decode well;
    indices and losses are of all levels, lest the others cease to learn.

    Args:
        quantizers: The children, coarsest first, of one dim and codebook size.
        scales: What each child's codes count; it sees the residual divided by that. None: 1 for each.
        quantize_dropout: The share of training batches that are decoded from a random number of levels.
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
        """Latents (B, N, d) -> codes (B, N, d), indices (B, N, G), losses."""
        residual, levels, indices, losses = z, [], [], []
        for child, scale in zip(self.quantizers, self.scales, strict=True):
            code, index, loss = child.quantize(residual / scale)
            levels.append(code.detach() * scale)
            residual = residual - levels[-1]
            indices.append(index)
            losses.append(loss)
        codes = sum(levels[:self._levels_in_use(z.device)])
        if self.training:
            codes = straight_through(z, codes, rotation_trick=self.rotation_trick)
        return codes, torch.cat(indices, dim=-1), self._merge(losses)

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, G), or those of the first levels only -> codes (B, N, d)."""
        shares = self._split(indices)
        return sum(child.lookup(share) * scale
                   for child, share, scale in zip(self.quantizers, shares, self.scales, strict=False))

    def _takes(self, num_codebooks: int) -> bool:
        return num_codebooks in accumulate(child.num_codebooks for child in self.quantizers)

    def _levels_in_use(self, device: torch.device) -> int:
        num = len(self.quantizers)
        if not self.training or not self.quantize_dropout:
            return num
        dropped, used = torch.rand(()) < self.quantize_dropout, torch.randint(1, num + 1, ())
        return int(from_first_process(torch.where(dropped, used, num).to(device)))

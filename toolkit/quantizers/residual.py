"""Residual quantization (SoundStream, Zeghidour et al., arXiv:2107.03312)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.contracts import Quantizer
from toolkit.layers import from_first_process
from toolkit.quantizers.composite import Composite
from toolkit.quantizers.straight_through import straight_through
from toolkit.registry import QUANTIZERS


@QUANTIZERS.register_module()
class Residual(Composite):
    """Residual quantization: each child quantizes the residual of those before it (arXiv:2107.03312, algorithm 1).

    The code is the sum of the children's codes. The straight-through gradient goes from the sum to the latents and
    skips the children. Each child learns from its own losses on its residual. A loss is the mean of the children's
    (weighted as :class:`Composite` says). The indices of the first children alone decode to a coarser code.

    Quantize dropout sums the codes of only the first n children in a training batch, so that their indices alone
    decode well. n is random and the same on all processes. Indices and losses are of all children.

    Args:
        quantizers: The children, coarsest first, of one dim and codebook size.
        scales: Factor of each child's codes; the child sees the residual divided by it. None: 1 for each.
        quantize_dropout: Share of training batches with quantize dropout, in [0, 1].
        rotation_trick: Pass gradients rotated (arXiv:2410.06424) instead of straight through.

    Raises:
        ValueError: If the children's dims or codebook sizes differ, or a number is out of range.

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
        num_summed = num_children = len(self.quantizers)
        if self.training and self.quantize_dropout:
            drops, num_kept = torch.rand(()) < self.quantize_dropout, torch.randint(1, num_children + 1, ())
            num_summed = int(from_first_process(torch.where(drops, num_kept, num_children).to(z.device)))
        codes = sum(child_codes[:num_summed])
        if self.training:
            codes = straight_through(z, codes, rotation_trick=self.rotation_trick)
        return codes, torch.cat(indices, dim=-1), self._merge(losses)

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (B, N, G), or those of the first children only -> codes (B, N, d)."""
        children = zip(self.quantizers, self._per_child(indices), self.scales, strict=False)
        return sum(child.lookup(child_indices) * scale for child, child_indices, scale in children)

    def _accepts_codebooks(self, num_codebooks: int) -> bool:
        return num_codebooks in self._codebook_ends

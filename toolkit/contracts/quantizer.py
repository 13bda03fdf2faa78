"""Quantizers, and the outputs of quantizers and tokenizers."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch.export
from einops import rearrange
from torch import Tensor, nn

from toolkit.contracts.component import Component
from toolkit.contracts.pixels import describe

Grid = tuple[int, int, int]


@dataclass
class QuantizerOutput:
    """Output of a quantizer.

    Attributes:
        codes: (B, d, t, h, w), the quantized latents in the latents' dtype.
        indices: (B, *positions, G) int64 in [0, K), or None for a continuous bottleneck.
        losses: name -> () float32, unweighted; empty in eval mode.

    Example:
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
        codes: (B, d, t, h, w), the decoder's input: the quantized latents (a mixture while training anneals to them).
        indices: (B, *positions, G) int64, or None for a continuous bottleneck.
        losses: the quantizer's losses, name -> () float32.

    Example:
        >>> TokenizerOutput(*[torch.zeros(1, 3, 1, 8, 8)] * 3, indices=None).losses
        {}
    """

    reconstruction: Tensor
    latents: Tensor
    codes: Tensor
    indices: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)


for _output in (QuantizerOutput, TokenizerOutput):  # so that torch.export takes modules that return them
    torch.export.register_dataclass(_output, serialized_type_name=f"toolkit.{_output.__name__}")


class Quantizer(Component, nn.Module, ABC):
    """Latents to codes of a finite codebook, and indices back to codes.

    A subclass implements :meth:`quantize` and :meth:`lookup` on flat positions. This class does the layout, computes in
    float32 outside autocast, and checks the input. A quantizer whose indices have no grid overrides :meth:`positions`,
    :meth:`quantize_grid` and :meth:`lookup_grid`.

    Attributes:
        dim: d, the channels of latents and codes.
        codebook_size: K of one codebook; 0 for a continuous bottleneck, whose indices are None.
        num_codebooks: G.
        loss_weights: The paper's weight of each loss that :meth:`quantize` returns.
        frozen: Whether only an optimizer may change the codebook; a forward pass then changes nothing.

    Example:
        >>> class Rounded(Quantizer):
        ...     dim, codebook_size = 1, 5
        ...     def quantize(self, z):
        ...         codes = z.clamp(0, 4).round()
        ...         return z + (codes - z).detach(), codes.long(), {}
        ...     def lookup(self, indices): return indices.float()
        >>> Rounded()(torch.tensor([0.2, 3.7]).reshape(1, 1, 1, 1, 2)).indices.flatten().tolist()
        [0, 4]
    """

    dim: int
    codebook_size: int
    num_codebooks: int = 1
    loss_weights: dict[str, float] = {}
    frozen: bool = False

    @property
    def digits(self) -> tuple[int, ...]:
        """Sizes of an index's digits, most significant first; their product is K. By default there is one."""
        return (self.codebook_size,) if self.codebook_size else ()

    @abstractmethod
    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Latents (B, N, d) float32 -> codes, indices and losses.

        Codes (B, N, d) carry a gradient to ``z`` in training. Indices are (B, N, G) int64 in [0, K). Losses are
        unweighted, name -> () float32.
        """

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """(B, N, G) int64 -> codes (B, N, d) float32."""

    def positions(self, grid: Grid) -> tuple[int, ...]:
        """The positions of the indices for a latent grid (t, h, w)."""
        return tuple(grid)

    def quantize_grid(self, latents: Tensor) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """As :meth:`quantize`, with latents and codes (B, d, t, h, w) float32."""
        codes, indices, losses = self.quantize(rearrange(latents, "b d t h w -> b (t h w) d"))
        t, h, w = latents.shape[2:]
        return rearrange(codes, "b (t h w) d -> b d t h w", t=t, h=h, w=w), indices, losses

    def lookup_grid(self, indices: Tensor, grid: Grid) -> Tensor:
        """(B, *positions, G) int64 of a latent grid (t, h, w) -> codes (B, d, t, h, w) float32."""
        codes = self.lookup(indices.flatten(1, -2))
        return rearrange(codes, "b (t h w) d -> b d t h w", t=grid[0], h=grid[1], w=grid[2])

    def forward(self, latents: Tensor) -> QuantizerOutput:
        """Quantize latents (B, d, t, h, w) of any float dtype; another shape or type raises ValueError."""
        if not isinstance(latents, Tensor) or not latents.is_floating_point():
            raise ValueError(f"{type(self).__name__} needs latents of a float dtype, got {describe(latents)}; give the "
                             "encoder's output.")
        if latents.ndim != 5 or latents.shape[1] != self.dim:
            raise ValueError(f"{type(self).__name__} needs latents (B, {self.dim}, t, h, w), got "
                             f"{tuple(latents.shape)}; set the encoder's out_channels to {self.dim}.")
        device = latents.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            codes, indices, losses = self.quantize_grid(latents.float())
        if indices is not None:
            positions = self.positions(tuple(latents.shape[2:]))
            indices = indices.reshape(latents.shape[0], *positions, self.num_codebooks)
        return QuantizerOutput(codes.to(latents.dtype), indices, losses if self.training else {})

    def codes_from_indices(self, indices: Tensor, grid: Grid | None = None) -> Tensor:
        """Stored indices (B, *positions, G) of any integer dtype in [0, K) -> codes (B, d, t, h, w) float32.

        ``grid`` is the (t, h, w) of the codes, for a quantizer whose positions are not the grid. Indices of another
        shape or outside the codebook, other types and booleans raise ValueError.
        """
        name = type(self).__name__
        if self.codebook_size == 0:
            raise ValueError(f"{name} is continuous and has no indices; decode its latents instead.")
        if not isinstance(indices, Tensor):
            raise ValueError(f"{name} needs integer indices as a torch.Tensor, got {describe(indices)}; "
                             "torch.as_tensor(indices) makes one.")
        is_grid = type(self).positions is Quantizer.positions
        if not is_grid and grid is None:
            raise ValueError(f"{name} needs the grid (t, h, w) of the codes, because its indices have no grid; pass "
                             "grid=, or size= to Tokenizer.detokenize.")
        positions = ("t", "h", "w") if is_grid else self.positions(grid)
        fits = indices.ndim == 5 if is_grid else tuple(indices.shape[1:-1]) == tuple(positions)
        is_integer = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
        if not fits or not self._accepts_codebooks(indices.shape[-1]) or not is_integer:
            expected = ", ".join(map(str, ("B", *positions, self.num_codebooks)))
            raise ValueError(f"{name} needs integer indices ({expected}), got {tuple(indices.shape)} of "
                             f"{indices.dtype}.")
        weight = next(itertools.chain(self.parameters(), self.buffers()), indices)  # without any, all devices fit
        if weight.device != indices.device:
            raise ValueError(f"{name} needs indices on {weight.device}, where its weights are, got {indices.device}; "
                             f"indices.to({str(weight.device)!r}).")
        indices = indices.long()  # stored ones may be of a small dtype
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.codebook_size:
            raise ValueError(f"{name} needs indices in [0, {self.codebook_size}), got {int(indices.min())} to "
                             f"{int(indices.max())}.")
        return self.lookup_grid(indices, tuple(indices.shape[1:4]) if is_grid else tuple(grid))

    def _accepts_codebooks(self, num_codebooks: int) -> bool:
        """Whether indices of ``num_codebooks`` codebooks can be looked up."""
        return num_codebooks == self.num_codebooks

"""Multi-scale residual quantization, coarse to fine (VAR, arXiv:2404.02905), in signs (Infinity, arXiv:2412.04431)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit import Quantizer
from toolkit.quantizers import straight_through, unit_length
from toolkit.quantizers.entropy import check_bits, grouped_binary_entropies

Grid = tuple[int, int, int]


class MultiScaleBSQ(Quantizer):
    """Residual binary spherical quantization over growing grids (Infinity, arXiv:2412.04431).

    The residual, at first the latents, is averaged down to each scale's grid. A position there becomes
    sign(r) / sqrt(bits), the nearest corner of a cube on the unit sphere (BSQ, arXiv:2406.07548). These
    codes, interpolated to the full grid, are taken from the residual; their sum over scales is the output.

    The indices of all scales lie on one axis, the coarsest scale first, each row by row: (B, L, 1) with L
    the sum of t_k * h_k * w_k, where a scale's sizes are ``max(1, round(scale * size))`` of the latents'. So
    they are no grid: to decode them one must say its size, and a video cannot be streamed.

    Losses: ``commitment``, the mean squared distance of latents and output; ``per_sample_entropy`` of the
    soft assignment p(c | u) = softmax(2 inv_temperature <u, c>) of a residual of unit length; ``codebook_entropy``
    of its average over the positions of all scales and processes. Infinity takes both entropies scale by scale,
    averages them over scales and counts bits as independent; here a coarse scale's few positions count as few,
    and the entropy of the average is that of all bits jointly (``entropy_groups=bits``: as independent bits).

    Digit order: a positive sign is a bit's one, the first channel the most significant bit. A residual of
    zero counts as negative.

    Args:
        bits: d, and K = 2^bits at every scale; up to 62.
        scales: Share of the latents' grid, of each axis, from coarse to fine; the last is 1.
        inv_temperature: Sharpness of the soft assignment.
        entropy_groups: Into how many equal groups of at most 24 bits the average is split, whose entropies
            are summed.

    Raises:
        ValueError: If bits are out of range, the groups do not divide them or are too large, or the scales do not
            grow to 1.

    Example:
        >>> quantizer = MultiScaleBSQ(bits=4, scales=(0.5, 1.0)).eval()
        >>> output = quantizer(torch.randn(1, 4, 1, 2, 4))
        >>> quantizer.sizes((1, 2, 4)), tuple(output.indices.shape)
        ([(1, 1, 2), (1, 2, 4)], (1, 10, 1))
        >>> torch.equal(quantizer.codes_from_indices(output.indices, grid=(1, 2, 4)), output.codes)
        True
    """

    loss_weights = {"commitment": 0.25, "per_sample_entropy": 0.1, "codebook_entropy": -0.1}

    def __init__(self, *, bits: int, scales: Sequence[float] = (0.25, 0.5, 1.0), inv_temperature: float = 1.0,
                 entropy_groups: int = 1):
        super().__init__()
        if not 1 <= bits <= 62:
            raise ValueError(f"MultiScaleBSQ needs 1 to 62 bits, got {bits}; an index is an int64.")
        check_bits("MultiScaleBSQ", bits, entropy_groups)
        if not scales or sorted(set(scales)) != list(scales) or scales[0] <= 0 or scales[-1] != 1:
            raise ValueError("MultiScaleBSQ needs scales that grow from above 0 to 1.0, the full grid, got "
                             f"{tuple(scales)}; give such as (0.25, 0.5, 1.0).")
        self.dim, self.codebook_size, self.scales = bits, 2**bits, tuple(scales)
        self.inv_temperature, self.entropy_groups = inv_temperature, entropy_groups
        self.register_buffer("place", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)

    @property
    def digits(self) -> tuple[int, ...]:
        """One bit per channel."""
        return (2,) * self.dim

    def sizes(self, grid: Grid) -> list[Grid]:
        """The grid (t_k, h_k, w_k) of every scale for latents of (t, h, w)."""
        return [tuple(max(1, round(scale * size)) for size in grid) for scale in self.scales]

    def positions(self, grid: Grid) -> tuple[int]:
        """One axis: all positions of all scales."""
        return (sum(map(math.prod, self.sizes(grid))),)

    def quantize_grid(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Latents (B, d, t, h, w) -> codes of that shape, indices (B, L, 1), losses."""
        grid = tuple(latents.shape[2:])
        total, residuals, indices = torch.zeros_like(latents), [], []
        for size in self.sizes(grid):
            # total carries no gradient, so that each scale's residual has the latents' own
            residual = rearrange(F.adaptive_avg_pool3d(latents - total, size), "b d t h w -> b (t h w) d")
            codes, own, _ = self.quantize(residual)
            total = total + self._grown(codes, size, grid)
            residuals.append(residual)
            indices.append(own)
        indices = torch.cat(indices, dim=1)  # (B, L, 1)
        if not self.training:
            return total, indices, {}
        # The code's size goes into the logits of the soft assignment.
        units = unit_length(torch.cat(residuals, dim=1)) * self.dim**-0.5  # (B, L, d)
        per_sample, codebook = grouped_binary_entropies(units, self.inv_temperature, groups=self.entropy_groups,
                                                        eps=1e-8)
        losses = {"commitment": F.mse_loss(latents, total), "per_sample_entropy": per_sample,
                  "codebook_entropy": codebook}
        return straight_through(latents, total), indices, losses

    def lookup_grid(self, indices: Tensor, grid: Grid) -> Tensor:
        """Indices (B, L, 1) of a latent grid (t, h, w) -> codes (B, d, t, h, w): the sum of all scales."""
        total, sizes = torch.zeros(len(indices), self.dim, *grid, device=indices.device), self.sizes(grid)
        for size, own in zip(sizes, indices.split([math.prod(size) for size in sizes], dim=1), strict=True):
            total = total + self._grown(self.lookup(own), size, grid)
        return total

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One scale: residuals (B, N, d) -> codes (B, N, d) of unit length, indices (B, N, 1)."""
        indices = ((z > 0) * self.place).sum(-1, keepdim=True)
        return self.lookup(indices), indices, {}

    def lookup(self, indices: Tensor) -> Tensor:
        """One scale: indices (B, N, 1) -> codes (B, N, d)."""
        return torch.where((indices & self.place) > 0, self.dim**-0.5, -(self.dim**-0.5)).to(torch.float32)

    def _grown(self, codes: Tensor, size: Grid, grid: Grid) -> Tensor:
        """Codes (B, N, d) of one scale, linearly interpolated to the full grid (B, d, t, h, w)."""
        codes = rearrange(codes, "b (t h w) d -> b d t h w", t=size[0], h=size[1], w=size[2])
        return codes if size == grid else F.interpolate(codes, grid, mode="trilinear", align_corners=False)

"""The contracts every part keeps, and the letters used in every docstring.

====  =========================================================================
B     batch
C     image channels (3)
T H W frames, rows, columns of pixels
d     latent channels
t h w the latent grid: ``(T', H', W')`` after the strides
N     positions, t * h * w
K     codebook size (of one codebook)
G     codebooks per position
====  =========================================================================

Pixels are ``(B, C, T, H, W)`` float in [-1, 1]; an image is T = 1. Latents and codes are
``(B, d, t, h, w)``. Indices are ``(B, *positions, G)`` int64, where the positions of a grid
quantizer are ``(t, h, w)``. A part takes everything but its input by keyword, and remembers its
constructor arguments in ``part.config`` (:mod:`toolkit.parts`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from toolkit.parts import Part
from toolkit.parts import constructor_parameters as constructor_parameters


class DataError(Exception):
    """A file that cannot be read as what it should be; the message names its path."""


@dataclass
class QuantizerOutput:
    """What a quantizer returns.

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
    """What a tokenizer's forward returns.

    Attributes:
        reconstruction: (B, C, T, H, W), the input's own shape, about [-1, 1], not clamped.
        latents: (B, d, t, h, w), the encoder's output.
        codes: (B, d, t, h, w), the quantized latents.
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


class Encoder(Part, nn.Module, ABC):
    """Pixels to latents.

    Attributes:
        in_channels: C.
        out_channels: d.
        stride: (s_t, s_h, s_w), how many frames, rows and columns one latent stands for.
        first_frame_alone: True: T = 1 + (t - 1) * s_t; False: T = t * s_t.
        causal: Whether no latent depends on later frames than its own, so that it can be streamed.
        activation_checkpointing: Recompute activations in the backward pass instead of storing
            them; a network without support for it ignores the wish.

    Example:
        >>> class EveryOtherPixel(Encoder):
        ...     in_channels, out_channels, stride, first_frame_alone, causal = 3, 3, (1, 2, 2), True, True
        ...     def forward(self, pixels): return pixels[..., ::2, ::2]
        >>> EveryOtherPixel()(torch.zeros(1, 3, 5, 8, 8)).shape
        torch.Size([1, 3, 5, 4, 4])
    """

    in_channels: int
    out_channels: int
    stride: tuple[int, int, int]
    first_frame_alone: bool
    causal: bool
    activation_checkpointing: bool = False

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, T, H, W) in [-1, 1], sizes that fit the stride -> latents (B, d, t, h, w)."""


class Decoder(Part, nn.Module, ABC):
    """Codes to pixels; its attributes mirror the encoder's.

    Attributes:
        in_channels: d.
        out_channels: C.
        stride, first_frame_alone, causal, activation_checkpointing: As the encoder's.
        last_layer: The weight of the layer that makes the pixels (adaptive GAN weights need it).

    Example:
        >>> Decoder.__abstractmethods__ == {"forward", "last_layer"}   # what an author writes
        True
    """

    in_channels: int
    out_channels: int
    stride: tuple[int, int, int]
    first_frame_alone: bool
    causal: bool
    activation_checkpointing: bool = False

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight of the layer that makes the pixels."""

    @abstractmethod
    def forward(self, codes: Tensor) -> Tensor:
        """(B, d, t, h, w) -> pixels (B, C, T, H, W), not clamped."""


class Quantizer(Part, nn.Module, ABC):
    """Latents to codes of a finite codebook, and indices back to codes.

    An author writes two flat functions, :meth:`quantize` and :meth:`lookup`. This class does the
    layout, keeps the computation in float32 outside autocast, and checks what goes in.

    Attributes:
        dim: d, the channels of latents and codes.
        codebook_size: K of one codebook; 0 for a continuous bottleneck, whose indices are None.
        num_codebooks: G.
        loss_weights: The paper's weight of each loss that :meth:`quantize` returns.

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

    @abstractmethod
    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The method itself, on flat positions.

        Args:
            z: (B, N, d) float32 latents.

        Returns:
            codes (B, N, d) that carry a gradient to ``z`` in training, indices (B, N, G) int64 in
            [0, K), and unweighted losses, name -> () float32.
        """

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """(B, N, G) int64 -> codes (B, N, d) float32."""

    def positions(self, grid: tuple[int, int, int]) -> tuple[int, ...]:
        """The positions of the indices for a latent grid (t, h, w)."""
        return tuple(grid)

    def forward(self, latents: Tensor) -> QuantizerOutput:
        """Quantize latents.

        Args:
            latents: (B, d, t, h, w), any float dtype.

        Raises:
            ValueError: If the latents are not 5-D with ``dim`` channels.
        """
        if latents.ndim != 5 or latents.shape[1] != self.dim:
            raise ValueError(
                f"{type(self).__name__} takes latents (B, {self.dim}, t, h, w), got "
                f"{tuple(latents.shape)}; set the encoder's out_channels to {self.dim}.")
        grid = tuple(latents.shape[2:])
        with torch.autocast(latents.device.type, enabled=False):
            codes, indices, losses = self.quantize(rearrange(latents, "b d t h w -> b (t h w) d").float())
        codes = self._to_grid(codes, grid).to(latents.dtype)
        if indices is not None:
            indices = indices.reshape(indices.shape[0], *self.positions(grid), self.num_codebooks)
        return QuantizerOutput(codes, indices, losses if self.training else {})

    def codes_from_indices(self, indices: Tensor, grid: tuple[int, int, int] | None = None) -> Tensor:
        """Codes of stored indices.

        Args:
            indices: (B, *positions, G) integers in [0, K).
            grid: (t, h, w) of the codes, for a quantizer whose positions do not tell it.

        Returns:
            (B, d, t, h, w) float32.

        Raises:
            ValueError: If the indices have another shape or lie outside the codebook.
        """
        if self.codebook_size == 0:
            raise ValueError(f"{type(self).__name__} is continuous and has no indices; "
                             "decode its latents instead.")
        if indices.ndim != 5 or indices.shape[-1] != self.num_codebooks or indices.is_floating_point():
            raise ValueError(f"{type(self).__name__} takes integer indices (B, t, h, w, {self.num_codebooks}), "
                             f"got {tuple(indices.shape)} of {indices.dtype}.")
        indices = indices.long()  # stored ones may be of a small dtype
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.codebook_size:
            raise ValueError(f"{type(self).__name__} takes indices in [0, {self.codebook_size}), got "
                             f"{int(indices.min())} to {int(indices.max())}.")
        codes = self.lookup(rearrange(indices, "b t h w g -> b (t h w) g"))
        return self._to_grid(codes, tuple(indices.shape[1:4]))

    @staticmethod
    def _to_grid(codes: Tensor, grid: tuple[int, ...]) -> Tensor:
        return rearrange(codes, "b (t h w) d -> b d t h w", t=grid[0], h=grid[1], w=grid[2])


class Discriminator(Part, nn.Module, ABC):
    """Pixels to logits of being real.

    Attributes:
        in_channels: C.
        size: (T, H, W) it takes, or None for any.
        batch_statistics: Whether a sample's logits depend on the rest of its batch, so that real and
            fake pixels are to be judged in calls of their own.

    Example:
        >>> class Brightness(Discriminator):
        ...     in_channels, size = 3, None
        ...     def forward(self, pixels): return pixels.mean((1, 2, 3, 4))
        >>> Brightness()(torch.ones(2, 3, 1, 4, 4)).tolist()
        [1.0, 1.0]
    """

    in_channels: int
    size: tuple[int, int, int] | None
    batch_statistics: bool = False

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, T, H, W) in [-1, 1] -> raw logits (B, ...).

        Raises:
            ValueError: If the pixels have another size than its own.
        """


class Loss(Part, nn.Module, ABC):
    """An unweighted distance of a reconstruction from its target.

    Example:
        >>> class Largest(Loss):
        ...     def forward(self, output, target): return (output.reconstruction - target).abs().max()
        >>> x = torch.zeros(1, 3, 1, 4, 4)
        >>> Largest()(TokenizerOutput(x + 0.5, x, x, None), x).item()
        0.5
    """

    @abstractmethod
    def forward(self, output: TokenizerOutput, target: Tensor) -> Tensor:
        """The loss of ``output`` against ``target`` (B, C, T, H, W) in [-1, 1] -> () float32."""


class AdversarialLoss(Part, nn.Module, ABC):
    """The two sides of a GAN's game, on raw logits of any shape.

    Example:
        >>> class Wasserstein(AdversarialLoss):
        ...     def generator(self, fake_logits): return -fake_logits.mean()
        ...     def discriminator(self, real_logits, fake_logits): return fake_logits.mean() - real_logits.mean()
        >>> Wasserstein().discriminator(torch.tensor([2.0]), torch.tensor([0.5])).item()
        -1.5
    """

    @abstractmethod
    def generator(self, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits of reconstructions -> () float32, low when they pass as real."""

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits of real pixels and reconstructions -> () float32, low when told apart."""


class GeneratorWeight(Part, nn.Module, ABC):
    """A factor on the generator's side of the game, found anew for every batch.

    Example:
        >>> class ByValue(GeneratorWeight):
        ...     def forward(self, reconstruction_loss, adversarial_loss, last_layer):
        ...         return (reconstruction_loss / adversarial_loss).detach()
        >>> layer = nn.Parameter(torch.ones(()))
        >>> ByValue()(3 * layer, 2 * layer, layer).item()
        1.5
    """

    @abstractmethod
    def forward(self, reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: nn.Parameter) -> Tensor:
        """The factor of one batch.

        Args:
            reconstruction_loss: () weighted sum of the losses on the reconstruction.
            adversarial_loss: () generator's side of the game, before its weight.
            last_layer: The decoder's, on which both depend; their graphs must be retained.

        Returns:
            () float32, detached, the same on every process.
        """


class Metric(Part, ABC):
    """A running score over a data set; sums are float64 and reduced over processes.

    Attributes:
        higher_is_better: name of a score -> whether more of it is better.

    Example:
        >>> Metric.__abstractmethods__ == {"update", "compute", "reset"}   # what an author writes
        True
    """

    higher_is_better: dict[str, bool]

    @abstractmethod
    def update(self, *, target: Tensor, reconstruction: Tensor, indices: Tensor | None) -> None:
        """Add a batch: pixels (B, C, T, H, W) in [-1, 1] and indices (B, *positions, G)."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Name -> score of everything added so far, by every process."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""


class Dataset(Part, ABC):
    """Samples ``{"pixels": (C, T, H, W) float32 in [-1, 1], "key": str}``.

    Map-style (``__len__`` and ``__getitem__``) or iterable (``__iter__``), as torch's. A file that
    cannot be read raises :class:`DataError` with its path.

    Attributes:
        modality: "image" or "video"; scalars are logged per modality.

    Example:
        >>> class Grey(Dataset):
        ...     modality = "image"
        ...     def __getitem__(self, index): return {"pixels": torch.zeros(3, 1, 8, 8), "key": "grey"}
        >>> Grey()[0]["key"]
        'grey'
    """

    modality: str

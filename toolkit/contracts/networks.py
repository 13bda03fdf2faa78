"""Encoders, decoders and discriminators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from toolkit.contracts.component import Component

Size = tuple[int, int, int]


class Encoder(Component, nn.Module, ABC):
    """Pixels to latents.

    Attributes:
        in_channels: C.
        out_channels: d.
        stride: (s_t, s_h, s_w), how many frames, rows and columns one latent stands for.
        first_frame_alone: True: T = 1 + (t - 1) * s_t; False: T = t * s_t.
        causal: Whether it can be streamed: no latent depends on later frames than its own, and ``forward`` of the
            chunks of a video with one cache gives the latents of the whole.
        activation_checkpointing: Recompute activations in the backward pass instead of storing them: True, or a
            number of levels, the finest first; a network without support for it ignores the setting.

    Example:
        >>> import torch
        >>> class EveryOtherPixel(Encoder):
        ...     in_channels, out_channels, stride, first_frame_alone, causal = 3, 3, (1, 2, 2), True, True
        ...     def forward(self, pixels, cache=None): return pixels[..., ::2, ::2]
        >>> EveryOtherPixel()(torch.zeros(1, 3, 5, 8, 8)).shape, EveryOtherPixel().fitting_size((5, 7, 8))
        (torch.Size([1, 3, 5, 4, 4]), (5, 8, 8))
    """

    in_channels: int
    out_channels: int
    stride: Size
    first_frame_alone: bool
    causal: bool
    activation_checkpointing: bool | int = False

    @abstractmethod
    def forward(self, pixels: Tensor, cache: dict[Any, Any] | None = None) -> Tensor:
        """Pixels (B, C, T, H, W) in [-1, 1] of a :meth:`fitting_size` -> latents (B, d, t, h, w).

        In a stream ``pixels`` is a chunk of any number of frames, and ``cache`` a dict, empty for the first chunk,
        that carries state from chunk to chunk. A network that sees every frame alone ignores it.
        """

    def grid(self, size: Size) -> Size:
        """The latent grid (t, h, w) of pixels (T, H, W), padded to :meth:`fitting_size`.

        A network whose latents are no grid overrides it: N latents of one image are (1, 1, N). Sizes that the network
        does not take raise ValueError with those that it takes.
        """
        alone = int(self.first_frame_alone)
        (frames, height, width), (s_t, s_h, s_w) = size, self.stride
        return alone + -(-(frames - alone) // s_t), -(-height // s_h), -(-width // s_w)

    def fitting_size(self, size: Size) -> Size:
        """The smallest (T, H, W) that the network takes and that contains ``size``; pixels are padded to it.

        If there is none, it raises ValueError with the sizes that the network takes.
        """
        return pixel_size(self, self.grid(size))


class Decoder(Component, nn.Module, ABC):
    """Codes to pixels; its attributes mirror the encoder's.

    Attributes:
        in_channels: d.
        out_channels: C.
        stride, first_frame_alone, causal, activation_checkpointing: As the encoder's.
        last_layer: The weight of the layer that makes the pixels, for adaptive GAN weights and the dtype of codes.

    Example:
        >>> Decoder.__abstractmethods__ == {"forward", "last_layer"}   # what an author writes
        True
    """

    in_channels: int
    out_channels: int
    stride: Size
    first_frame_alone: bool
    causal: bool
    activation_checkpointing: bool | int = False

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight of the layer that makes the pixels."""

    @abstractmethod
    def forward(self, codes: Tensor, cache: dict[Any, Any] | None = None) -> Tensor:
        """(B, d, t, h, w) -> pixels (B, C, T, H, W), not clamped; ``cache`` as in :meth:`Encoder.forward`."""

    def pixel_size(self, grid: Size) -> Size:
        """(T, H, W) of the pixels of codes (t, h, w); overridden where the encoder overrides :meth:`Encoder.grid`.

        Grids that the network does not take raise ValueError with those that it takes.
        """
        return pixel_size(self, grid)


def pixel_size(network: Encoder | Decoder, grid: Size) -> Size:
    """(T, H, W) of the pixels of a latent grid, by the strides alone."""
    t, h, w = (cells * stride for cells, stride in zip(grid, network.stride, strict=True))
    return t - int(network.first_frame_alone) * (network.stride[0] - 1), h, w


class Discriminator(Component, nn.Module, ABC):
    """Pixels to logits of being real.

    Attributes:
        in_channels: C.
        size: (T, H, W) it takes, or None for any.
        batch_statistics: Whether a sample's logits depend on the rest of its batch. Real and fake pixels then go
            through it in separate calls.

    Example:
        >>> import torch
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
        """(B, C, T, H, W) in [-1, 1] -> raw logits (B, ...); another size than its own raises ValueError."""

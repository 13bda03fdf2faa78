"""Encoders, decoders and discriminators."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from toolkit.contracts.component import Component


class Encoder(Component, nn.Module, ABC):
    """Pixels to latents.

    Attributes:
        in_channels: C.
        out_channels: d.
        stride: (s_t, s_h, s_w), how many frames, rows and columns one latent stands for.
        first_frame_alone: True: T = 1 + (t - 1) * s_t; False: T = t * s_t.
        causal: Whether no latent depends on later frames than its own. To be streamed, ``forward`` then takes a
            second argument, ``cache=None``: a dict in which it keeps what the next chunk of a video needs.
        activation_checkpointing: Recompute activations in the backward pass instead of storing them: True, or a
            number of levels, the finest first; a network without support for it ignores the wish.

    Example:
        >>> import torch
        >>> class EveryOtherPixel(Encoder):
        ...     in_channels, out_channels, stride, first_frame_alone, causal = 3, 3, (1, 2, 2), True, True
        ...     def forward(self, pixels, cache=None): return pixels[..., ::2, ::2]
        >>> EveryOtherPixel()(torch.zeros(1, 3, 5, 8, 8)).shape
        torch.Size([1, 3, 5, 4, 4])
    """

    in_channels: int
    out_channels: int
    stride: tuple[int, int, int]
    first_frame_alone: bool
    causal: bool
    activation_checkpointing: bool | int = False

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, T, H, W) in [-1, 1], sizes that fit the stride -> latents (B, d, t, h, w)."""


class Decoder(Component, nn.Module, ABC):
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
    activation_checkpointing: bool | int = False

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight of the layer that makes the pixels."""

    @abstractmethod
    def forward(self, codes: Tensor) -> Tensor:
        """(B, d, t, h, w) -> pixels (B, C, T, H, W), not clamped."""


class Discriminator(Component, nn.Module, ABC):
    """Pixels to logits of being real.

    Attributes:
        in_channels: C.
        size: (T, H, W) it takes, or None for any.
        batch_statistics: Whether a sample's logits depend on the rest of its batch, so that real and
            fake pixels are to be judged in calls of their own.

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
        """(B, C, T, H, W) in [-1, 1] -> raw logits (B, ...).

        Raises:
            ValueError: If the pixels have another size than its own.
        """

"""Losses on the reconstruction, adversarial losses, and the weight between the two."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from toolkit.contracts.component import Component
from toolkit.contracts.quantizer import TokenizerOutput


class Loss(Component, nn.Module, ABC):
    """An unweighted distance of a reconstruction from its target.

    A loss may have parameters: they learn with the tokenizer, by its optimizer, and are in checkpoints, not in the
    exported tokenizer. Every parameter needs a gradient whenever the loss is computed; a frozen network
    goes into :class:`toolkit.pretrained.Frozen`.

    Example:
        >>> import torch
        >>> class Largest(Loss):
        ...     def forward(self, output, target): return (output.reconstruction - target).abs().max()
        >>> x = torch.zeros(1, 3, 1, 4, 4)
        >>> Largest()(TokenizerOutput(x + 0.5, x, x, None), x).item()
        0.5
    """

    @abstractmethod
    def forward(self, output: TokenizerOutput, target: Tensor) -> Tensor:
        """The loss of ``output`` against ``target`` (B, C, T, H, W) in [-1, 1] -> () float32."""


class AdversarialLoss(Component, nn.Module, ABC):
    """The generator's and the discriminator's loss of a GAN, on raw logits of any shape.

    Example:
        >>> import torch
        >>> class Wasserstein(AdversarialLoss):
        ...     def generator(self, fake_logits): return -fake_logits.mean()
        ...     def discriminator(self, real_logits, fake_logits): return fake_logits.mean() - real_logits.mean()
        >>> Wasserstein().discriminator(torch.tensor([2.0]), torch.tensor([0.5])).item()
        -1.5
    """

    @abstractmethod
    def generator(self, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits of reconstructions -> () float32, low if they are judged real."""

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits of real pixels and reconstructions -> () float32, low if real and fake are distinguished."""


class GeneratorWeight(Component, nn.Module, ABC):
    """A factor on the generator's adversarial loss, computed for every batch.

    Example:
        >>> import torch
        >>> class ByValue(GeneratorWeight):
        ...     def forward(self, reconstruction_loss, adversarial_loss, last_layer):
        ...         return (reconstruction_loss / adversarial_loss).detach()
        >>> layer = nn.Parameter(torch.ones(()))
        >>> ByValue()(3 * layer, 2 * layer, layer).item()
        1.5
    """

    @abstractmethod
    def forward(self, reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: nn.Parameter) -> Tensor:
        """The factor of one batch: () float32, detached, the same on every process.

        Both losses are (): the weighted sum of those on the reconstruction, and the generator's before its weight.
        Both depend on the decoder's ``last_layer``, and their graphs must be retained.
        """

"""Variants of a valid component, quantizers to make them of, and the check of any component."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from toolkit import contracts, testing
from toolkit.layers import mean_over_processes
from toolkit.quantizers import straight_through

T = TypeVar("T")
CHECKS = {contracts.AdversarialLoss: testing.check_adversarial_loss, contracts.Dataset: testing.check_dataset,
          contracts.Decoder: testing.check_decoder, contracts.Discriminator: testing.check_discriminator,
          contracts.Encoder: testing.check_encoder, contracts.GeneratorWeight: testing.check_generator_weight,
          contracts.Loss: testing.check_loss, contracts.Metric: testing.check_metric,
          contracts.Quantizer: testing.check_quantizer}


def check(component: object, **options: Any) -> None:
    """Check a component by the function of its kind."""
    next(function for contract, function in CHECKS.items() if isinstance(component, contract))(component, **options)


def variant(base: type[T], **attributes: Any) -> T:
    """An instance of a subclass of ``base`` with these class attributes or methods; it cannot be pickled."""
    return type(f"{base.__name__}_{'_'.join(attributes)}", (base,), attributes)()


class Ternary(contracts.Quantizer):
    """A good one to break: each channel is rounded to -1, 0 or 1, the first channel is the most significant digit."""

    dim, codebook_size, digits = 3, 27, (3, 3, 3)
    loss_weights = {"commitment": 0.25}

    def __init__(self, *, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.register_buffer("place", torch.tensor([9, 3, 1]), persistent=False)

    def quantize(self, z):
        digits = (z / self.scale).clamp(-1, 1).round()
        indices = ((digits.long() + 1) * self.place).sum(-1, keepdim=True)
        codes = digits * self.scale
        if not self.training:
            return codes, indices, {}
        return straight_through(z, codes), indices, {"commitment": (z - codes).square().mean()}

    def lookup(self, indices):
        return ((indices // self.place) % 3 - 1.0) * self.scale


class RunningScale(Ternary):
    """A good one with a state: the scale is a running mean over the batches of all processes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale_", torch.ones(()))
        del self.scale

    scale = property(lambda self: self.scale_, lambda self, value: None, lambda self: None)

    def quantize(self, z):
        if self.updates():
            self.learn(z.detach())
        return super().quantize(z)

    def updates(self):
        return self.training and not self.frozen

    def learn(self, z):
        self.scale_.lerp_(mean_over_processes(z.abs().mean()), 0.1)


def ternary_of(change: Callable[[torch.Tensor], torch.Tensor]) -> Ternary:
    """A Ternary that quantizes ``change(z)``."""
    return variant(Ternary, quantize=lambda self, z: Ternary.quantize(self, change(z)))


def changed(change: Callable[..., Any]) -> Ternary:
    """A Ternary whose ``quantize`` returns ``change(z, codes, indices, losses)``."""
    return variant(Ternary, quantize=lambda self, z: change(z, *Ternary.quantize(self, z)))


def forwarding(change: Callable[..., Any]) -> Ternary:
    """A Ternary whose ``forward`` calls ``change(self, latents, output)`` and returns what this returns."""
    return variant(Ternary, forward=lambda self, latents: change(self, latents, Ternary.forward(self, latents)))

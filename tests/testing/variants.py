"""Variants of a valid component, and the check of any component."""

from __future__ import annotations

from typing import Any, TypeVar

from toolkit.contracts import (
    AdversarialLoss,
    Dataset,
    Decoder,
    Discriminator,
    Encoder,
    GeneratorWeight,
    Loss,
    Metric,
    Quantizer,
)
from toolkit.testing import (
    check_adversarial_loss,
    check_dataset,
    check_decoder,
    check_discriminator,
    check_encoder,
    check_generator_weight,
    check_loss,
    check_metric,
    check_quantizer,
)

T = TypeVar("T")
CHECKS = {AdversarialLoss: check_adversarial_loss, Dataset: check_dataset, Decoder: check_decoder,
          Discriminator: check_discriminator, Encoder: check_encoder, GeneratorWeight: check_generator_weight,
          Loss: check_loss, Metric: check_metric, Quantizer: check_quantizer}


def check(component: object, **options: Any) -> None:
    """Check a component by the function of its kind."""
    next(function for contract, function in CHECKS.items() if isinstance(component, contract))(component, **options)


def variant(base: type[T], **attributes: Any) -> T:
    """An instance of a subclass of ``base`` with these class attributes or methods; it cannot be pickled."""
    return type(f"{base.__name__}_{'_'.join(attributes)}", (base,), attributes)()

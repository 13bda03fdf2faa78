"""The forward and backward passes of one training step, for the trainer and the profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor

from toolkit.contracts import TokenizerOutput
from toolkit.training.initialization import train_mode
from toolkit.training.objective import Objective, Phase, Scalars, no_phase
from toolkit.training.optimizer import Learner
from toolkit.training.schedules import value_at
from toolkit.training.settings import Settings

Autocast = Callable[[], AbstractContextManager]


def prepare_step(tokenizer: Learner, objective: Objective, settings: Settings, step: int) -> None:
    """Set train or eval mode and the tokenizer's ``quantization`` for optimizer step ``step``."""
    train_mode(tokenizer.plain)
    tokenizer.plain.quantization = value_at(settings.quantization, step)
    objective.train()


def tokenizer_pass(pixels: Tensor, tokenizer: Learner, objective: Objective, discriminator: Learner | None, *,
                   step: int, modality: str, autocast: Autocast, share: float = 1.0, phase: Phase = no_phase,
                   ) -> tuple[TokenizerOutput, Scalars]:
    """Forward pass, losses and backward pass of the tokenizer for pixels (B, C, T, H, W).

    Returns the output, its reconstruction detached, and the terms of the loss. The loss is multiplied
    by ``share``, 1 / number of micro-batches.
    """
    with autocast():
        with phase("tokenizer, forward"):
            output = tokenizer.module(pixels)
        total, scalars = objective.generator_loss(
            output, pixels, step=step, modality=modality, discriminator=discriminator and discriminator.plain,
            last_layer=tokenizer.plain.decoder.last_layer, phase=phase)
    with phase("tokenizer, backward"):
        tokenizer.backward(total * share)
        output.reconstruction = output.reconstruction.detach()
        del total
    return output, scalars


def discriminator_pass(pixels: Tensor, output: TokenizerOutput, objective: Objective, discriminator: Learner, *,
                       step: int, modality: str, autocast: Autocast, share: float = 1.0) -> Scalars:
    """Loss and backward pass of the discriminator; returns the terms of the loss."""
    with autocast():
        total, scalars = objective.discriminator_loss(output, pixels, step=step, modality=modality,
                                                      discriminator=discriminator.module,
                                                      plain_discriminator=discriminator.plain)
    discriminator.backward(total * share)
    return scalars

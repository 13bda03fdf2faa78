"""The forward and backward passes of one training step, for the trainer and the profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from toolkit.contracts import TokenizerOutput
from toolkit.training.initialization import train_mode
from toolkit.training.objective import Objective, PhaseTimer, Scalars
from toolkit.training.optimizer import Learner
from toolkit.training.settings import Settings, value_at

Autocast = Callable[[], AbstractContextManager]


def prepare_step(tokenizer: Learner, objective: Objective, settings: Settings, step: int) -> None:
    """Set train or eval mode, ``quantization`` and activation checkpointing for optimizer step ``step``."""
    network = tokenizer.plain
    train_mode(network)
    network.quantization = value_at(settings.quantization, step)
    network.encoder.activation_checkpointing = network.decoder.activation_checkpointing = (
        settings.activation_checkpointing)
    objective.train()


def tokenizer_pass(pixels: Tensor, tokenizer: Learner, objective: Objective, discriminator: Learner | None, *,
                   step: int, modality: str, autocast: Autocast, share: float = 1.0, phase: PhaseTimer = nullcontext,
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
    return output, scalars


def discriminator_pass(pixels: Tensor, output: TokenizerOutput, objective: Objective, discriminator: Learner, *,
                       step: int, modality: str, autocast: Autocast, share: float = 1.0) -> Scalars:
    """Loss and backward pass of the discriminator; returns the terms of the loss."""
    with autocast():
        total, scalars = objective.discriminator_loss(output, pixels, step=step, modality=modality,
                                                      discriminator=discriminator.module)
    discriminator.backward(total * share)
    return scalars

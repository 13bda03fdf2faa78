"""The forward and backward passes of one micro-batch, for the trainer and the profiler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from toolkit.contracts import TokenizerOutput
from toolkit.training.initialization import train_mode
from toolkit.training.objective import Objective, PhaseTimer, Scalars
from toolkit.training.optimizer import NetworkHandle
from toolkit.training.settings import Settings, value_at

Autocast = Callable[[], AbstractContextManager]


def prepare_step(tokenizer: NetworkHandle, objective: Objective, settings: Settings, step: int) -> None:
    """Set train or eval mode, ``quantization`` and activation checkpointing for optimizer step ``step``."""
    network = tokenizer.network
    train_mode(network)
    network.quantization = value_at(settings.quantization, step)
    network.encoder.activation_checkpointing = network.decoder.activation_checkpointing = (
        settings.activation_checkpointing)
    objective.train()


def tokenizer_pass(pixels: Tensor, tokenizer: NetworkHandle, objective: Objective,
                   discriminator: NetworkHandle | None, *, step: int, modality: str, autocast: Autocast,
                   loss_factor: float = 1.0, phase: PhaseTimer = nullcontext) -> tuple[TokenizerOutput, Scalars]:
    """Forward pass, losses and backward pass of the tokenizer for pixels (B, C, T, H, W).

    Returns the output, with a detached reconstruction, and the unweighted terms of the loss. ``loss_factor`` is
    1 / number of micro-batches.
    """
    with autocast():
        with phase("tokenizer, forward"):
            output = tokenizer.wrapped(pixels)
        total, scalars = objective.generator_loss(
            output, pixels, step=step, modality=modality, phase=phase, last_layer=tokenizer.network.decoder.last_layer,
            discriminator=discriminator and discriminator.network)  # its weights get no gradients: no DDP
    with phase("tokenizer, backward"):
        tokenizer.backward(total * loss_factor)
        output.reconstruction = output.reconstruction.detach()
    return output, scalars


def discriminator_pass(pixels: Tensor, output: TokenizerOutput, objective: Objective, discriminator: NetworkHandle, *,
                       step: int, modality: str, autocast: Autocast, loss_factor: float = 1.0) -> Scalars:
    """Loss and backward pass of the discriminator; returns the terms of the loss."""
    with autocast():
        total, scalars = objective.discriminator_loss(output, pixels, step=step, modality=modality,
                                                      discriminator=discriminator.wrapped)
    discriminator.backward(total * loss_factor)
    return scalars

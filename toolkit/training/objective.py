"""The training objective: every term with its weight.

The tokenizer's total is ``sum(weight * loss) + sum(weight * quantizer loss) + weight * adversarial``; an adaptive
weight multiplies the last term. The discriminator's total is ``weight * adversarial + weight * LeCAM + weight * every *
R1``. A term of weight zero is not computed, except the quantizer's losses and the discriminator's adversarial loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from toolkit.config import ConfigError
from toolkit.contracts import AdversarialLoss, GeneratorWeight, Loss, Quantizer, TokenizerOutput
from toolkit.layers import mean_over_processes
from toolkit.layers.early_gradient import loss_with_early_gradient
from toolkit.training.settings import PiecewiseLinear, value_at

logger = logging.getLogger(__name__)
Scalars = dict[str, Tensor]
PhaseTimer = Callable[[str], AbstractContextManager]  # phase name -> context that measures it, or nullcontext


def r1_penalty(logits: Tensor, pixels: Tensor) -> Tensor:
    """Zero-centred gradient penalty on real data, before its weight.

    The batch mean of the squared gradient norm of logits (B, ...) with respect to pixels (B, C, T, H, W), a float32
    scalar (Mescheder et al., arXiv:1801.04406, eq. 9). The pixels require grad.
    """
    gradient, = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


class LeCAM(nn.Module):
    """Penalises distances of logits from the other side's running average (Tseng et al., arXiv:2104.03310, eq. 5).

    ``relu(real - average_fake)^2 + relu(average_real - fake)^2``. The averages are updated first, with ``decay``,
    over the global batch of all processes. They are buffers, so checkpoints have them. ``per_logit``: penalise each
    logit and average (the paper, Open-MAGVIT2); otherwise penalise the mean logit of the batch (O2-MAGVIT2).
    """

    def __init__(self, *, decay: float = 0.999, per_logit: bool = False):
        super().__init__()
        self.decay, self.per_logit = decay, per_logit
        self.register_buffer("average_real", torch.zeros(()))
        self.register_buffer("average_fake", torch.zeros(()))

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits of real pixels and reconstructions -> () float32."""
        real, fake = real_logits.float(), fake_logits.float()
        real_mean, fake_mean = mean_over_processes(real.mean()), mean_over_processes(fake.mean())
        if self.training:
            self.average_real.lerp_(real_mean.detach(), 1 - self.decay)
            self.average_fake.lerp_(fake_mean.detach(), 1 - self.decay)
        if not self.per_logit:
            real, fake = real_mean, fake_mean
        return ((real - self.average_fake).relu().square().mean()
                + (self.average_real - fake).relu().square().mean())


@contextmanager
def no_parameter_gradients(module: nn.Module) -> Iterator[None]:
    """Context in which the module's parameters get no gradients; its input still does."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class AdversarialTerms(nn.Module):
    """The GAN terms, for one discriminator; weights are numbers or schedules.

    ``adaptive`` computes another factor on the generator's loss. Lazy R1: computed every ``r1_every`` steps
    and multiplied by ``r1_every``; ``r1_weight`` is the mean weight per step.
    """

    def __init__(self, loss: AdversarialLoss, *, weight: PiecewiseLinear = 0.1, adaptive: GeneratorWeight | None = None,
                 discriminator_weight: PiecewiseLinear = 1.0, lecam: LeCAM | None = None,
                 lecam_weight: PiecewiseLinear = 0.0, r1_weight: PiecewiseLinear = 0.0, r1_every: int = 1):
        super().__init__()
        for module in filter(None, (loss, adaptive)):
            if any(parameter.requires_grad for parameter in module.parameters()):
                raise ConfigError(f"objective.adversarial needs terms without trainable parameters, got "
                                  f"{type(module).__name__}; use a Loss in objective.losses for trainable parameters.")
        self.loss, self.adaptive, self.lecam = loss, adaptive, lecam
        self.weight, self.discriminator_weight = weight, discriminator_weight
        self.lecam_weight, self.r1_weight, self.r1_every = lecam_weight, r1_weight, r1_every
        for name in ("weight", "discriminator_weight", "lecam_weight", "r1_weight"):
            value_at(getattr(self, name), 0, name=f"objective.adversarial: {name}")  # raises an error if malformed

    def is_active(self, step: int) -> bool:
        """Whether the generator's or the discriminator's loss has a weight at this step."""
        return value_at(self.weight, step) > 0 or value_at(self.discriminator_weight, step) > 0

    def generator_loss(self, reconstruction: Tensor, discriminator: nn.Module, step: int, *,
                       reconstruction_loss: Tensor | None = None, last_layer: nn.Parameter | None = None,
                       ) -> tuple[Tensor, Scalars]:
        """Weighted scalar loss of the tokenizer (the generator) for a reconstruction (B, C, T, H, W), and its scalars.

        An adaptive weight needs ``reconstruction_loss`` (the weighted sum of the losses) and the decoder's
        ``last_layer``. The discriminator gets no gradients.
        """
        weight = value_at(self.weight, step)
        if weight == 0:
            return reconstruction.new_zeros((), dtype=torch.float32), {}
        with no_parameter_gradients(discriminator):
            adversarial = loss_with_early_gradient(  # except in fp16, frees the discriminator's graph early
                lambda pixels: self.loss.generator(discriminator(pixels).float()), reconstruction)
        scalars = {"adversarial": adversarial.detach()}
        if self.adaptive is not None:
            scalars["adaptive_weight"] = self.adaptive(reconstruction_loss, adversarial, last_layer)
            weight = weight * scalars["adaptive_weight"]
        return weight * adversarial, scalars

    def discriminator_loss(self, target: Tensor, reconstruction: Tensor, discriminator: nn.Module, step: int,
                           ) -> tuple[Tensor, Scalars]:
        """Weighted scalar loss of the discriminator on real pixels and their reconstruction, both (B, C, T, H, W).

        One forward pass on the concatenation of both; with ``batch_statistics`` two passes, real pixels first. R1 runs
        in float32 on the unwrapped module.
        """
        plain = extract_model_from_parallel(discriminator)
        fake_pixels = reconstruction.detach().to(target.dtype)
        if plain.batch_statistics:
            real, fake = discriminator(target).float(), discriminator(fake_pixels).float()
        else:
            real, fake = discriminator(torch.cat([target, fake_pixels])).float().chunk(2)
        adversarial = self.loss.discriminator(real, fake)
        total = value_at(self.discriminator_weight, step) * adversarial
        scalars = {"discriminator": adversarial.detach(), "logits_real": real.detach().mean(),
                   "logits_fake": fake.detach().mean()}
        if self.lecam is not None and (weight := value_at(self.lecam_weight, step)):
            penalty = self.lecam(real, fake)
            total = total + weight * penalty
            scalars["lecam"] = penalty.detach()
        if (weight := value_at(self.r1_weight, step)) and step % self.r1_every == 0:
            with torch.autocast(target.device.type, enabled=False):
                pixels = target.detach().float().requires_grad_()
                penalty = r1_penalty(plain.forward(pixels), pixels)  # torch.compile has no double backward
            total = total + weight * self.r1_every * penalty
            scalars["r1"] = penalty.detach()
        return total, scalars


class Objective(nn.Module):
    """All terms of training with their weights.

    Args:
        losses: name -> (loss of the tokenizer's output, weight or schedule); their parameters learn with the tokenizer.
        adversaries: modality -> its AdversarialTerms; empty without a GAN.
        quantizer_weights: name of a quantizer's loss -> weight or schedule.

    Example:
        >>> from toolkit import build_objective
        >>> objective = build_objective(dict(losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0))))
        >>> clip = torch.zeros(1, 3, 1, 4, 4)
        >>> output = TokenizerOutput(clip + 2, latents=clip, codes=clip, indices=None)
        >>> total, scalars = objective.generator_loss(output, clip, step=0)
        >>> total.item(), scalars["reconstruction"].item()
        (20.0, 4.0)
    """

    def __init__(self, *, losses: Mapping[str, tuple[Loss, PiecewiseLinear]],
                 adversaries: Mapping[str, AdversarialTerms] | None = None,
                 quantizer_weights: Mapping[str, PiecewiseLinear] | None = None):
        super().__init__()
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in losses.items()})
        self.weights = {name: weight for name, (_, weight) in losses.items()}
        self.adversaries, self.quantizer_weights = nn.ModuleDict(adversaries or {}), dict(quantizer_weights or {})
        for name, schedule in (*self.weights.items(), *self.quantizer_weights.items()):
            value_at(schedule, 0, name=f"objective: the weight of {name}")  # raises an error if malformed

    def schedules(self) -> list[PiecewiseLinear]:
        """All weights. Which terms are computed depends on their signs only."""
        names = ("weight", "discriminator_weight", "lecam_weight", "r1_weight")
        return [*self.weights.values(), *self.quantizer_weights.values(),
                *(getattr(terms, name) for terms in self.adversaries.values() for name in names)]

    def check_last_layer(self, last_layer: nn.Parameter | None) -> None:
        """Raise a ConfigError if there is an adaptive weight and ``last_layer`` is None or frozen."""
        if all(terms.adaptive is None for terms in self.adversaries.values()):
            return
        if last_layer is None or not last_layer.requires_grad:
            raise ConfigError("objective.adversarial.adaptive needs the gradient at the decoder's last layer, got "
                              f"{'no layer' if last_layer is None else 'a frozen layer'}; train a "
                              "decoder that has a last_layer (training.trainable), or set adaptive=None.")

    def generator_loss(self, output: TokenizerOutput, target: Tensor, *, step: int, modality: str = "video",
                       discriminator: nn.Module | None = None, last_layer: nn.Parameter | None = None,
                       phase: PhaseTimer = nullcontext) -> tuple[Tensor, Scalars]:
        """The tokenizer's total (float32 scalar), and scalars for the log: unweighted terms, total, adaptive weight.

        ``output`` is the tokenizer's output for ``target`` (B, C, T, H, W) in [-1, 1]. ``step`` counts the optimizer
        steps done. ``modality`` selects the adversarial terms; ``discriminator`` is None without a GAN. An adaptive
        weight needs the decoder's ``last_layer``. ``phase(name)`` is a profiler's context.

        Raises:
            KeyError: If the quantizer returns a loss that has no weight.
            ConfigError: If there is an adaptive weight and the last layer is missing or frozen.
        """
        self.check_last_layer(last_layer)
        with phase("losses and their gradients"):
            reconstruction_loss, scalars = target.new_zeros((), dtype=torch.float32), {}
            for name, loss in self.losses.items():
                if weight := value_at(self.weights[name], step):
                    value = _loss_value(loss, output, target)
                    reconstruction_loss = reconstruction_loss + weight * value
                    scalars[name] = value.detach()
            total = reconstruction_loss
            for name, value in output.losses.items():
                if name not in self.quantizer_weights:
                    raise KeyError(f"the quantizer's loss {name!r} has no weight; set it in the quantizer's "
                                   "loss_weights or in objective.quantizer.")
                total = total + value_at(self.quantizer_weights[name], step) * value
                scalars[name] = value.detach()
        if discriminator is not None:
            with phase("adversarial loss and its gradient"):
                adversarial, adversarial_scalars = self.adversaries[modality].generator_loss(
                    output.reconstruction, discriminator, step, reconstruction_loss=reconstruction_loss,
                    last_layer=last_layer)
                total, scalars = total + adversarial, scalars | adversarial_scalars
        return total, scalars | {"total": total.detach()}

    def discriminator_loss(self, output: TokenizerOutput, target: Tensor, *, step: int, discriminator: nn.Module,
                           modality: str = "video") -> tuple[Tensor, Scalars]:
        """The discriminator's total loss, a float32 scalar, and its unweighted terms; see :class:`AdversarialTerms`."""
        return self.adversaries[modality].discriminator_loss(target, output.reconstruction, discriminator, step)


def _loss_value(loss: Loss, output: TokenizerOutput, target: Tensor) -> Tensor:
    """The loss; its gradient is computed at once, except in fp16 or if the loss has parameters to train."""
    if any(parameter.requires_grad for parameter in loss.parameters()):
        return loss(output, target)
    names = list(output.losses)

    def loss_of_tensors(reconstruction: Tensor, latents: Tensor, codes: Tensor, *losses: Tensor) -> Tensor:
        return loss(replace(output, reconstruction=reconstruction, latents=latents, codes=codes,
                            losses=dict(zip(names, losses, strict=True))), target)

    return loss_with_early_gradient(
        loss_of_tensors, output.reconstruction, output.latents, output.codes, *output.losses.values())


def merged_quantizer_weights(config: Mapping[str, Any], quantizer: Quantizer | None) -> dict[str, PiecewiseLinear]:
    """Weights of the quantizer's losses. The config overrides the quantizer's own weights; None means 0.

    ``commitment=0.25`` is used for any quantizer. ``TYPE=dict(commitment=0.25)`` is used only for a quantizer of that
    type; the log names the types that are ignored.
    """
    weights = {name: weight for name, weight in config.items() if not isinstance(weight, Mapping)}
    by_type = {name: weight for name, weight in config.items() if isinstance(weight, Mapping)}
    if quantizer is not None:
        actual = quantizer.config["type"]
        if ignored := [name for name in by_type if name != actual]:
            logger.info("objective.quantizer: the weights for %s are ignored; the quantizer is %s.",
                        " and ".join(ignored), actual)
        weights_of_type = by_type.get(actual, {})
        if twice := [name for name in weights if name in weights_of_type]:
            raise ConfigError(f"objective.quantizer states {twice[0]} twice, as {twice[0]} and as {actual}.{twice[0]}; "
                              f"set only objective.quantizer.{actual}.{twice[0]}.")
        weights = weights | dict(weights_of_type)
        if unknown := [name for name in weights if name not in quantizer.loss_weights]:
            raise ConfigError(f"{actual} has the losses {', '.join(quantizer.loss_weights) or 'none'}, but "
                              f"objective.quantizer has {', '.join(unknown)}; remove {' and '.join(unknown)}.")
        weights = dict(quantizer.loss_weights) | weights
    return {name: 0.0 if weight is None else weight for name, weight in weights.items()}

"""What training minimises: every term with its weight, in one place.

The tokenizer's total is ``sum(weight * loss) + sum(weight * quantizer loss) + weight * adversarial``, where
an adaptive weight multiplies the last one; the discriminator's is ``weight * adversarial + lecam + r1``.
A loss on the reconstruction, an adversarial side, LeCAM or R1 that is absent or whose weight is zero at a
step is not computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit.config import ConfigError
from toolkit.contracts import AdversarialLoss, Discriminator, GeneratorWeight, Loss, TokenizerOutput
from toolkit.layers.eager import eager_loss
from toolkit.training.regularizers import LeCAM, r1_penalty
from toolkit.training.schedules import Schedule, value_at

logger = logging.getLogger(__name__)
Scalars = dict[str, Tensor]


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Within it, the module's parameters ask for no gradients; gradients to its input still flow.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    wanted = [p for p in module.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield module
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


class Adversary(nn.Module):
    """The GAN terms, for one discriminator.

    Args:
        loss: The game, such as ``NonSaturating``.
        weight: Of the generator's side, a number or a schedule.
        adaptive: A further factor on the generator's side, such as ``AdaptiveWeight``, or None.
        discriminator_weight: Of the discriminator's side, a number or a schedule.
        lecam: The regulariser with its averages, or None.
        lecam_weight: A number or a schedule.
        r1_weight: Average weight of R1 per step, a number or a schedule.
        r1_every: R1 is computed every so many steps, and then multiplied by that number.

    Example:
        >>> from toolkit.registry import LOSSES
        >>> adversary = Adversary(LOSSES.build(dict(type="Hinge")), weight=0.5)
        >>> mean = nn.Sequential(nn.Flatten(), nn.AvgPool1d(12))   # a discriminator of brightness
        >>> adversary.generator_loss(torch.ones(2, 3, 1, 2, 2), mean, step=0)[0].item()   # 0.5 * -1
        -0.5
    """

    def __init__(self, loss: AdversarialLoss, *, weight: Schedule = 0.1, adaptive: GeneratorWeight | None = None,
                 discriminator_weight: Schedule = 1.0, lecam: LeCAM | None = None, lecam_weight: Schedule = 0.0,
                 r1_weight: Schedule = 0.0, r1_every: int = 1):
        super().__init__()
        self.loss, self.adaptive, self.lecam = loss, adaptive, lecam
        self.weight, self.discriminator_weight = weight, discriminator_weight
        self.lecam_weight, self.r1_weight, self.r1_every = lecam_weight, r1_weight, r1_every

    def is_active(self, step: int) -> bool:
        """Whether either side has a weight at this step; before that, neither learns from the other."""
        return value_at(self.weight, step) > 0 or value_at(self.discriminator_weight, step) > 0

    def generator_loss(self, reconstruction: Tensor, discriminator: nn.Module, step: int, *,
                       reconstruction_loss: Tensor | None = None, last_layer: nn.Parameter | None = None,
                       ) -> tuple[Tensor, Scalars]:
        """Weighted () loss of the tokenizer, and its scalars.

        Args:
            reconstruction: (B, C, T, H, W), about [-1, 1].
            discriminator: Frozen here.
            step: Optimizer steps taken so far.
            reconstruction_loss: () weighted sum of the losses on the reconstruction, for an adaptive weight.
            last_layer: The decoder's, for an adaptive weight.
        """
        weight = value_at(self.weight, step)
        if weight == 0:
            return reconstruction.new_zeros((), dtype=torch.float32), {}
        with frozen(discriminator):
            raw = eager_loss(lambda pixels: self.loss.generator(discriminator(pixels).float()), reconstruction)
        scalars = {"adversarial": raw.detach()}
        if self.adaptive is not None:
            scalars["adaptive_weight"] = self.adaptive(reconstruction_loss, raw, last_layer)
            weight = weight * scalars["adaptive_weight"]
        return weight * raw, scalars

    def discriminator_loss(self, target: Tensor, reconstruction: Tensor, discriminator: nn.Module, step: int, *,
                           plain_discriminator: Discriminator | None = None) -> tuple[Tensor, Scalars]:
        """Weighted () loss of the discriminator, and its scalars.

        Args:
            target: (B, C, T, H, W) real pixels in [-1, 1].
            reconstruction: (B, C, T, H, W), detached here.
            discriminator: Called once on both, so a data-parallel wrapper sees one forward pass; but once on
                each, real pixels first, if its logits depend on the batch.
            step: Optimizer steps taken so far.
            plain_discriminator: The same without a wrapper, which would hide its attributes, also for R1
                (in float32); by default itself.
        """
        plain = discriminator if plain_discriminator is None else plain_discriminator
        fake_pixels = reconstruction.detach().to(target.dtype)
        if plain.batch_statistics:
            real, fake = discriminator(target).float(), discriminator(fake_pixels).float()
        else:
            real, fake = discriminator(torch.cat([target, fake_pixels])).float().chunk(2)
        game = self.loss.discriminator(real, fake)
        total = value_at(self.discriminator_weight, step) * game
        scalars = {"discriminator": game.detach(), "logits_real": real.detach().mean(),
                   "logits_fake": fake.detach().mean()}
        if self.lecam is not None and (weight := value_at(self.lecam_weight, step)):
            penalty = self.lecam(real, fake)
            total = total + weight * penalty
            scalars["lecam"] = penalty.detach()
        if (weight := value_at(self.r1_weight, step)) and step % self.r1_every == 0:
            with torch.autocast(target.device.type, enabled=False):
                pixels = target.detach().float().requires_grad_()
                penalty = r1_penalty(plain(pixels), pixels)
            total = total + weight * self.r1_every * penalty
            scalars["r1"] = penalty.detach()
        return total, scalars


class Objective(nn.Module):
    """All terms of training with their weights.

    Args:
        losses: name -> (loss, weight or schedule), on the reconstruction.
        adversaries: modality -> its GAN terms; empty for training without a GAN.
        quantizer_weights: name -> weight or schedule of the quantizer's losses.

    Example:
        >>> from toolkit import build_objective
        >>> objective = build_objective(dict(losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0))))
        >>> clip = torch.zeros(1, 3, 1, 4, 4)
        >>> output = TokenizerOutput(clip + 2, latents=clip, codes=clip, indices=None)
        >>> total, scalars = objective.generator_loss(output, clip, step=0)
        >>> total.item(), scalars["reconstruction"].item()
        (20.0, 4.0)
    """

    def __init__(self, *, losses: Mapping[str, tuple[Loss, Schedule]],
                 adversaries: Mapping[str, Adversary] | None = None,
                 quantizer_weights: Mapping[str, Schedule] | None = None):
        super().__init__()
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in losses.items()})
        self.weights = {name: weight for name, (_, weight) in losses.items()}
        self.adversaries = nn.ModuleDict(adversaries or {})
        self.quantizer_weights = dict(quantizer_weights or {})

    def check_last_layer(self, last_layer: nn.Parameter | None) -> None:
        """Refuse a decoder's last layer that gives an adaptive weight nothing to compare.

        Raises:
            ConfigError: If some adversary has an adaptive weight, and the layer is None or frozen.
        """
        if all(adversary.adaptive is None for adversary in self.adversaries.values()):
            return
        if last_layer is None or not last_layer.requires_grad:
            raise ConfigError("objective.adversarial.adaptive needs the gradient at the decoder's last layer, got "
                              f"{'no layer' if last_layer is None else 'a frozen one'}; pass "
                              "last_layer=decoder.last_layer of a decoder that is trained, or set adaptive=None.")

    def generator_loss(self, output: TokenizerOutput, target: Tensor, *, step: int, modality: str = "video",
                       discriminator: nn.Module | None = None, last_layer: nn.Parameter | None = None,
                       ) -> tuple[Tensor, Scalars]:
        """The tokenizer's total.

        Args:
            output: The tokenizer's output for ``target``.
            target: (B, C, T, H, W) in [-1, 1].
            step: Optimizer steps taken so far.
            modality: Whose adversary judges.
            discriminator: The discriminator of that modality, or None without a GAN.
            last_layer: The decoder's, which an adaptive weight needs.

        Returns:
            The weighted total () float32, and every term's unweighted value by name.

        Raises:
            KeyError: If the quantizer returns a loss that has no weight.
            ConfigError: If there is an adaptive weight and the last layer is missing or frozen.
        """
        self.check_last_layer(last_layer)
        total, scalars = target.new_zeros((), dtype=torch.float32), {}
        for name, loss in self.losses.items():
            if weight := value_at(self.weights[name], step):
                raw = _eager_output_loss(loss, output, target)
                total = total + weight * raw
                scalars[name] = raw.detach()
        reconstruction_loss = total
        for name, raw in output.losses.items():
            if name not in self.quantizer_weights:
                raise KeyError(f"the quantizer's loss {name!r} has no weight; state it in the quantizer's "
                               "loss_weights or in objective.quantizer.")
            total = total + value_at(self.quantizer_weights[name], step) * raw
            scalars[name] = raw.detach()
        if discriminator is not None:
            weighted, more = self.adversaries[modality].generator_loss(
                output.reconstruction, discriminator, step, reconstruction_loss=reconstruction_loss,
                last_layer=last_layer)
            total, scalars = total + weighted, scalars | more
        return total, scalars | {"total": total.detach()}

    def discriminator_loss(self, output: TokenizerOutput, target: Tensor, *, step: int, discriminator: nn.Module,
                           modality: str = "video", plain_discriminator: Discriminator | None = None,
                           ) -> tuple[Tensor, Scalars]:
        """The discriminator's total () float32 and its unweighted terms; see :class:`Adversary`."""
        return self.adversaries[modality].discriminator_loss(
            target, output.reconstruction, discriminator, step, plain_discriminator=plain_discriminator)


def _eager_output_loss(loss: Loss, output: TokenizerOutput, target: Tensor) -> Tensor:
    """:func:`eager_loss` of a loss on a tokenizer's output: its gradient by everything in it."""
    names = list(output.losses)

    def of_parts(reconstruction: Tensor, latents: Tensor, codes: Tensor, *losses: Tensor) -> Tensor:
        return loss(replace(output, reconstruction=reconstruction, latents=latents, codes=codes,
                            losses=dict(zip(names, losses, strict=True))), target)
    return eager_loss(of_parts, output.reconstruction, output.latents, output.codes, *output.losses.values())

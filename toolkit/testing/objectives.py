"""Checks of losses: on reconstructions, adversarial losses, and the weight between the two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolkit.contracts import AdversarialLoss, GeneratorWeight, Loss, TokenizerOutput
from toolkit.registry import LOSSES
from toolkit.testing.checks import Check
from toolkit.testing.components import Size, check_saving, duplicate, seeded, tiny_latents, tiny_pixels, unchanged
from toolkit.testing.processes import on_two_processes

LOGITS = ((4,), (4, 1), (4, 1, 2, 3, 3))
_ATTACHED = "do not detach, round or convert to numpy on the way"


def check_loss(loss: Loss, *, size: Size = (2, 32, 32)) -> None:
    """Check that a loss on reconstructions meets its contract; raise ContractViolation if not.

    A finite float32 scalar for any input dtype; a gradient at the reconstruction, the latents or the codes; a gradient
    at each of its own parameters; no state changed in eval mode; frozen networks in no checkpoint; saving.

    Args:
        size: (T, H, W) of the pixels.

    Example:
        >>> from toolkit.losses import L1
        >>> check_loss(L1())
    """
    with seeded(0):
        target = tiny_pixels(size=size, seed=1)
        for training in (True, False):
            copied = duplicate(loss).train(training)
            for dtype in (torch.float32, torch.bfloat16):
                with Check(loss, "it is one finite float32 number") as checked:
                    checked.need_scalar(copied(_output(size, dtype), target), "loss")
            with Check(loss, "the gradient reaches output.reconstruction, or its latents or codes",
                       do=_ATTACHED) as checked:
                output = _output(size)
                checked.need_gradient(copied(output, target), [output.reconstruction, output.latents, output.codes],
                                      "reconstruction, the latents or the codes")
        _check_parameters(loss, _output(size), target)
        copied, output, kept = duplicate(loss).eval(), _output(size), target.clone()
        with Check(loss, "eval mode changes no state, and the input stays as it is") as checked:
            with unchanged(checked, copied, do="update running values only if self.training"):
                copied(output, target)
            checked.need_untouched(target, kept, "pixels")
            checked.need_untouched(output.reconstruction, _output(size).reconstruction, "reconstructions")
        check_saving(loss, LOSSES, lambda one: {"loss": one(_output(size), target)})


def check_adversarial_loss(loss: AdversarialLoss) -> None:
    """Check that an adversarial loss meets its contract; raise ContractViolation if not.

    Both sides are a finite () float32 for logits of any shape, with gradients; the discriminator's falls when real
    and fake are distinguished, the generator's when the fake passes as real; saving.

    Example:
        >>> from toolkit.losses import Hinge
        >>> check_adversarial_loss(Hinge())
    """
    with seeded(0):
        for shape in LOGITS:
            _check_sides(duplicate(loss).train(), shape)
        copied = duplicate(loss).eval()
        high, low = torch.ones(4, 1), -torch.ones(4, 1)
        with Check(loss, "the discriminator's loss is low when real and fake are distinguished") as checked:
            right, wrong = copied.discriminator(high, low), copied.discriminator(low, high)
            checked.need(bool(right < wrong), needed="a lower loss for real logits 1 and fake ones -1 than the other "
                         "way round", got=f"{right.item():.4g} and {wrong.item():.4g}",
                         do="see which of the two arguments comes first: real, then fake")
        with Check(loss, "the generator's loss is low when its fake passes as real") as checked:
            passing, caught = copied.generator(high), copied.generator(low)
            checked.need(bool(passing < caught), needed="a lower loss for fake logits 1 than for -1",
                         got=f"{passing.item():.4g} and {caught.item():.4g}", do="correct the sign")
        check_saving(loss, LOSSES, lambda one: {"loss": one.discriminator(high, low) + one.generator(low)})


def check_generator_weight(weight: GeneratorWeight, *, processes: Sequence[int] = (1, 2)) -> None:
    """Check that a weight of the generator's loss meets its contract; raise ContractViolation if not.

    A finite () float32 without a gradient; the losses' graphs stay; no parameter gets a gradient; two processes
    compute the same factor.

    Args:
        processes: With 2 among them, two real processes compute the factor of their shares.

    Example:
        >>> from toolkit.losses import AdaptiveWeight
        >>> check_generator_weight(AdaptiveWeight(), processes=(1,))
    """
    with seeded(0):
        with Check(weight, "it is one finite float32 number without a gradient") as checked:
            factor, layer, total = _linear_decoder(duplicate(weight), slice(None))
            checked.need_scalar(factor, "factor")
            checked.need(not factor.requires_grad, needed="a factor without a gradient", got="one with",
                         do="return factor.detach()")
            checked.need(layer.grad is None, needed="no gradient left at the last layer", got="one",
                         do="use torch.autograd.grad, not backward")
        with Check(weight, "the graphs of both losses stay", do="give torch.autograd.grad retain_graph=True"):
            (factor * total).backward()
        if 2 in processes:
            with Check(weight, "two processes compute the same factor") as checked:
                shares = [(duplicate(weight), half) for half in (slice(0, 2), slice(2, 4))]
                first, second = on_two_processes(checked, _share_of_losses, shares)
                checked.need_near({"factor": second}, {"factor": first}, needed="one factor",
                                  do="average gradients by toolkit.layers.mean_over_processes before taking norms")
        check_saving(weight, LOSSES, lambda one: {"factor": _linear_decoder(one, slice(None))[0]})


def _output(size: Size, dtype: torch.dtype = torch.float32) -> TokenizerOutput:
    """Output of a tokenizer with a reconstruction, latents and codes that a gradient can reach."""
    latents = tiny_latents(dim=4, grid=(1, 4, 4)).to(dtype)
    return TokenizerOutput(tiny_pixels(size=size, seed=2).to(dtype).requires_grad_(), latents.requires_grad_(),
                           latents.detach().sign().requires_grad_(), torch.zeros(2, 1, 4, 4, 1, dtype=torch.int64))


def _check_parameters(loss: Loss, output: TokenizerOutput, target: Tensor) -> None:
    frozen = {name for name, parameter in loss.named_parameters() if not parameter.requires_grad}
    with Check(loss, "networks that are used and never trained are in no checkpoint") as checked:
        saved = sorted(frozen & set(loss.state_dict()))
        checked.need(not saved, needed="no frozen parameter in the state_dict",
                     got=f"{len(saved)}, such as {saved[:2]}", do="wrap the network in toolkit.pretrained.Frozen")
    with Check(loss, "its parameters learn: a gradient reaches each of them") as checked:
        copied = duplicate(loss).train()
        copied(output, target).backward()
        unused = sorted(name for name, one in copied.named_parameters() if one.requires_grad and one.grad is None)
        checked.need(not unused, needed="a gradient at every parameter in every step", got=f"none at {unused[:2]}",
                     do="use it in forward, make it a buffer, or wrap the network in toolkit.pretrained.Frozen")


def _check_sides(loss: AdversarialLoss, shape: tuple[int, ...]) -> None:
    # Logits between -1 and 1, where no known loss is flat.
    logits = [tiny_pixels(size=(1, 1, 1), batch=torch.Size(shape).numel(), channels=1, seed=seed).reshape(shape)
              for seed in (1, 2)]
    for name in ("generator", "discriminator"):
        for dtype in (torch.float32, torch.bfloat16):
            real, fake = (one.detach().to(dtype).requires_grad_() for one in logits)
            sides = {"real": real, "fake": fake} if name == "discriminator" else {"fake": fake}
            with Check(loss, f"the {name}'s side is one finite float32 number for logits {shape}") as checked:
                checked.need_scalar(getattr(loss, name)(*sides.values()), "loss")
            with Check(loss, f"the gradient of the {name}'s side reaches the logits {shape}", do=_ATTACHED) as checked:
                for side, tensor in sides.items():
                    checked.need_gradient(getattr(loss, name)(*sides.values()), [tensor], f"{side} logits")


def _linear_decoder(weight: GeneratorWeight, share: slice) -> tuple[Tensor, nn.Parameter, Tensor]:
    """The factor of a linear decoder's two losses, its layer, and the losses' sum."""
    layer = nn.Parameter(tiny_latents(dim=4, batch=3, grid=(1, 1, 1), seed=6).flatten(1))
    codes, target = tiny_latents(dim=4, batch=4, seed=7)[share], tiny_pixels(batch=4, size=(1, 4, 4))[share]
    pixels = torch.einsum("cd,bdthw->bcthw", layer, codes)
    reconstruction, adversarial = (pixels - target).square().mean(), -pixels.square().mean()
    return weight(reconstruction, adversarial, layer), layer, reconstruction + adversarial


def _share_of_losses(weight: GeneratorWeight, share: slice) -> Tensor:
    return _linear_decoder(weight, share)[0]

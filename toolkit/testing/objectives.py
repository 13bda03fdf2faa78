"""Checks of losses: on reconstructions, adversarial losses, and the weight between the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from toolkit.contracts import AdversarialLoss, GeneratorWeight, Loss, TokenizerOutput
from toolkit.registry import LOSSES
from toolkit.testing.checks import Check, check
from toolkit.testing.components import (
    Size,
    changes,
    check_saving,
    duplicate,
    near,
    seeded,
    state_of,
    tiny_latents,
    tiny_pixels,
)
from toolkit.testing.processes import on_two_processes

LOGITS = ((4,), (4, 1), (4, 1, 2, 3, 3))


def check_loss(loss: Loss, *, size: Size = (2, 32, 32)) -> None:
    """Check that a loss on reconstructions meets its contract; raise ContractViolation if not.

    A finite () float32 whatever the reconstruction's dtype; a gradient at the reconstruction, the latents or the
    codes; a gradient at each of its own parameters; no state changed in eval mode; frozen networks in no checkpoint;
    saving.

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
                with check(loss, "it is one finite float32 number") as checked:
                    checked.need_scalar(copied(_output(size, dtype), target), "loss")
            with check(loss, "the gradient reaches output.reconstruction, or its latents or codes") as checked:
                output = _output(size)
                _need_gradient(checked, copied(output, target), [output.reconstruction, output.latents, output.codes],
                               called="reconstruction, the latents or the codes")
        _check_parameters(loss, _output(size), target)
        copied = duplicate(loss).eval()
        before = state_of(copied)
        with check(loss, "eval mode changes no state, and the input stays as it is") as checked:
            output, kept = _output(size), target.clone()
            copied(output, target)
            touched = changes(copied, before)
            same = torch.equal(target, kept) and torch.equal(output.reconstruction, _output(size).reconstruction)
            checked.need(not touched and same, needed="parameters, buffers and pixels as before",
                         got=f"changes of {touched or 'the pixels'}", do="use no in-place operations in eval mode")
        check_saving(loss, LOSSES, lambda one: one(_output(size), target))


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
        with check(loss, "the discriminator's loss is low when real and fake are distinguished") as checked:
            right, wrong = copied.discriminator(high, low), copied.discriminator(low, high)
            checked.need(bool(right < wrong), needed="a lower loss for real logits 1 and fake ones -1 than the other "
                         "way round", got=f"{right.item():.4g} and {wrong.item():.4g}",
                         do="see which of the two arguments comes first: real, then fake")
        with check(loss, "the generator's loss is low when its fake passes as real") as checked:
            passing, caught = copied.generator(high), copied.generator(low)
            checked.need(bool(passing < caught), needed="a lower loss for fake logits 1 than for -1",
                         got=f"{passing.item():.4g} and {caught.item():.4g}", do="correct the sign")
        check_saving(loss, LOSSES, lambda one: one.discriminator(high, low) + one.generator(low))


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
        with check(weight, "it is one finite float32 number without a gradient") as checked:
            factor, layer, total = _linear_decoder(duplicate(weight), slice(None))
            checked.need_scalar(factor, "factor")
            checked.need(not factor.requires_grad, needed="a factor without a gradient", got="one with",
                         do="return factor.detach()")
            checked.need(layer.grad is None, needed="no gradient left at the last layer", got="one",
                         do="use torch.autograd.grad, not backward")
        with check(weight, "the graphs of both losses stay", do="give torch.autograd.grad retain_graph=True"):
            (factor * total).backward()
        if 2 in processes:
            with check(weight, "two processes compute the same factor") as checked:
                shares = [(duplicate(weight), half) for half in (slice(0, 2), slice(2, 4))]
                first, second = on_two_processes(checked, _share_of_losses, shares)
                checked.need(near(torch.tensor(first), torch.tensor(second)), needed="one factor",
                             got=f"{first:.6g} and {second:.6g}",
                             do="average gradients by toolkit.layers.mean_over_processes before taking norms")
        check_saving(weight, LOSSES, lambda one: _linear_decoder(one, slice(None))[0])


def _output(size: Size, dtype: torch.dtype = torch.float32) -> TokenizerOutput:
    """Output of a tokenizer with a reconstruction, latents and codes that a gradient can reach."""
    latents = tiny_latents(dim=4, grid=(1, 4, 4)).to(dtype)
    return TokenizerOutput(tiny_pixels(size=size, seed=2).to(dtype).requires_grad_(), latents.requires_grad_(),
                           latents.detach().sign().requires_grad_(), torch.zeros(2, 1, 4, 4, 1, dtype=torch.int64))


def _need_gradient(checked: Check, value: Tensor, at: Sequence[Tensor], *, called: str) -> None:
    """Raise the error unless a gradient is nonzero at one tensor at least, and finite at all."""
    do = "do not detach, round or convert to numpy on the way"
    checked.need(value.requires_grad, needed="a loss with a gradient", got="one cut off from any", do=do)
    gradients = [gradient for gradient in torch.autograd.grad(value, at, allow_unused=True) if gradient is not None]
    checked.need(any(gradient.any() for gradient in gradients), got="zeros" if gradients else "none", do=do,
                 needed=f"a finite gradient at the {called} that is not zero everywhere")
    for gradient in gradients:
        checked.need_finite(gradient, f"gradients at the {called}", do=do)


def _check_parameters(loss: Loss, output: TokenizerOutput, target: Tensor) -> None:
    frozen = {name for name, parameter in loss.named_parameters() if not parameter.requires_grad}
    with check(loss, "networks that are used and never trained are in no checkpoint") as checked:
        saved = sorted(frozen & set(loss.state_dict()))
        checked.need(not saved, needed="no frozen parameter in the state_dict",
                     got=f"{len(saved)}, such as {saved[:2]}", do="wrap the network in toolkit.pretrained.Frozen")
    with check(loss, "its parameters learn: a gradient reaches each of them") as checked:
        copied = duplicate(loss).train()
        copied(output, target).backward()
        unused = sorted(name for name, one in copied.named_parameters() if one.requires_grad and one.grad is None)
        checked.need(not unused, needed="a gradient at every parameter in every step", got=f"none at {unused[:2]}",
                     do="use it in forward, make it a buffer, or wrap the network in toolkit.pretrained.Frozen")


def _check_sides(loss: AdversarialLoss, shape: tuple[int, ...]) -> None:
    sides: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "generator": lambda _, fake: loss.generator(fake), "discriminator": loss.discriminator}
    for name, side in sides.items():
        for dtype in (torch.float32, torch.bfloat16):
            # Between -1 and 1, where no known loss is flat.
            real, fake = (tiny_pixels(size=(1, 1, 1), batch=torch.Size(shape).numel(), channels=1, seed=seed)
                          .reshape(shape).to(dtype).requires_grad_() for seed in (1, 2))
            with check(loss, f"the {name}'s side is one finite float32 number for logits {shape}") as checked:
                checked.need_scalar(side(real, fake), "loss")
            with check(loss, f"the gradient of the {name}'s side reaches the logits {shape}") as checked:
                _need_gradient(checked, side(real, fake), [fake], called="fake logits")
                if name == "discriminator":
                    _need_gradient(checked, side(real, fake), [real], called="real logits")


def _linear_decoder(weight: GeneratorWeight, share: slice) -> tuple[Tensor, nn.Parameter, Tensor]:
    """The factor of a linear decoder's two losses, its layer, and the losses' sum."""
    layer = nn.Parameter(tiny_latents(dim=4, batch=3, grid=(1, 1, 1), seed=6).flatten(1))
    codes, target = tiny_latents(dim=4, batch=4, seed=7)[share], tiny_pixels(batch=4, size=(1, 4, 4))[share]
    pixels = torch.einsum("cd,bdthw->bcthw", layer, codes)
    reconstruction, adversarial = (pixels - target).square().mean(), -pixels.square().mean()
    return weight(reconstruction, adversarial, layer), layer, reconstruction + adversarial


def _share_of_losses(share: tuple[GeneratorWeight, slice]) -> float:
    return _linear_decoder(*share)[0].item()

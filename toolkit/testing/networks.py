"""Checks of encoders, decoders and discriminators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.contracts import Decoder, Discriminator, Encoder
from toolkit.contracts.networks import pixel_size
from toolkit.registry import DECODERS, DISCRIMINATORS, ENCODERS, Registry
from toolkit.testing.checks import Check, check_type, describe, is_count
from toolkit.testing.components import Size, check_module, duplicate, seeded, tiny_latents, tiny_pixels

GRIDS = ((1, 2, 2), (2, 3, 2), (3, 2, 3))
Coder = Encoder | Decoder
_TOLERANCE = 1e-4  # of the largest output: other sizes mean other orders of summation


def check_encoder(encoder: Encoder, *, sizes: Sequence[Size] | None = None) -> None:
    """Check that an encoder meets its contract; raise ContractViolation if not.

    Attributes and config; ``grid`` and ``fitting_size``; the latents' size; gradients; eval mode; batches; saving;
    activation checkpointing; and if it is causal, that no latent depends on later frames and that a stream through
    its cache gives the latents of the whole.

    Args:
        sizes: (T, H, W) of pixels to try; by default some that its stride divides. A network of one size needs them.
            A causal one needs at least two latents in time in the last.

    Example:
        >>> from toolkit.networks import VQGANEncoder
        >>> check_encoder(VQGANEncoder(filters=4, channel_multipliers=(1, 2), z_channels=4, num_res_blocks=1))
    """
    with seeded(0):
        _check_attributes(encoder, Encoder)
        sizes = sizes or [pixel_size(encoder, grid) for grid in GRIDS]
        grids = [_check_grid(encoder, size) for size in sizes]
        for size, grid in zip(sizes, grids, strict=True):
            pixels = tiny_pixels(channels=encoder.in_channels, size=encoder.fitting_size(size))
            _check_output(encoder, pixels, (2, encoder.out_channels, *grid), called="latents")
        _check_network(encoder, pixels, ENCODERS)
        _check_checkpointing(encoder, pixels)
        if encoder.causal:
            frames, *area = pixels.shape[2:]
            with Check(encoder, "a causal network takes any number of frames") as checked:
                seen = max((t for t in range(1, frames) if encoder.grid((t, *area))[0] < grid[0]), default=0)
                checked.need(seen > 0, needed="a size with two latents in time", got=f"the latent grid {grid}",
                             do="give check_encoder a last size of more frames, or set causal = False")
            _check_causal(encoder, pixels, seen=seen, kept=grid[0] - 1)


def check_decoder(decoder: Decoder, *, grids: Sequence[Size] = GRIDS) -> None:
    """Check that a decoder meets its contract; raise ContractViolation if not.

    The checks are those of :func:`check_encoder`, mirrored, and that of the last layer.

    Args:
        grids: Latent grids (t, h, w) to try. A network of one size needs its own, a causal one at least two latents
            in time in the last.

    Example:
        >>> from toolkit.networks import VQGANDecoder
        >>> check_decoder(VQGANDecoder(filters=4, channel_multipliers=(1, 2), z_channels=4, num_res_blocks=1))
    """
    with seeded(0):
        _check_attributes(decoder, Decoder)
        for grid in grids:
            with Check(decoder, "pixel_size tells the size of its pixels", do="give check_decoder grids that it takes"):
                size = decoder.pixel_size(grid)
            codes = tiny_latents(dim=decoder.in_channels, grid=grid)
            _check_output(decoder, codes, (2, decoder.out_channels, *size), called="pixels")
        _check_network(decoder, codes, DECODERS)
        _check_checkpointing(decoder, codes)
        _check_last_layer(decoder, codes)
        if decoder.causal:
            _check_causal(decoder, codes, seen=grid[0] - 1, kept=decoder.pixel_size((grid[0] - 1, *grid[1:]))[0])


def check_discriminator(discriminator: Discriminator, *, size: Size = (5, 32, 32)) -> None:
    """Check that a discriminator meets its contract; raise ContractViolation if not.

    Attributes and config; one or more finite logits per sample; a ValueError for other sizes than its own; gradients
    and their gradients (R1); eval mode; logits of a sample that do not depend on its batch, unless
    ``batch_statistics``; saving.

    Args:
        size: (T, H, W) of pixels for one that takes any size.

    Example:
        >>> from toolkit.networks import PatchGANDiscriminator
        >>> check_discriminator(PatchGANDiscriminator(filters=4, num_layers=1), size=(1, 16, 16))
    """
    with seeded(0):
        check_type(discriminator, Discriminator)
        with Check(discriminator, "in_channels, size and batch_statistics are declared") as checked:
            checked.need_counts(discriminator, "in_channels")
            checked.need_flags(discriminator, "batch_statistics")
            own = discriminator.size
            checked.need(own is None or _triple(own), needed="size, (T, H, W) or None", got=f"{own!r}",
                         do="set self.size, None for any size")
        pixels = tiny_pixels(batch=3, channels=discriminator.in_channels, size=own or size)
        _check_logits(discriminator, pixels)
        if own is not None:
            with Check(discriminator, "another size than its own is refused") as checked:
                network, other = duplicate(discriminator), (own[0] + 1, *own[1:])
                checked.need_refusal(lambda: network(tiny_pixels(channels=network.in_channels, size=other)),
                                     of=f"pixels of size {other}", do="compare the pixels' size with self.size")
        _check_network(discriminator, pixels, DISCRIMINATORS,
                       modes=() if discriminator.batch_statistics else (False, True),
                       do="use no statistic of the batch, or set batch_statistics = True")
        _check_second_gradient(discriminator, pixels)


def _triple(numbers: object) -> bool:
    return isinstance(numbers, tuple | list) and len(numbers) == 3 and all(map(is_count, numbers))


def _check_attributes(network: Coder, contract: type) -> None:
    check_type(network, contract)
    with Check(network, "its channels, stride, first_frame_alone and causal are declared",
               do="set them on the class or in the constructor, after super().__init__()") as checked:
        checked.need_counts(network, "in_channels", "out_channels")
        checked.need_flags(network, "first_frame_alone", "causal", "activation_checkpointing")
        checked.need(_triple(network.stride), needed="stride (s_t, s_h, s_w), ints of at least 1",
                     got=f"{network.stride!r}", do="set self.stride")


def _check_grid(encoder: Encoder, size: Size) -> Size:
    with Check(encoder, "grid and fitting_size tell the sizes that it takes",
               do="correct grid and fitting_size, or give check_encoder sizes that the network takes") as checked:
        grid, fitting = encoder.grid(size), encoder.fitting_size(size)
        checked.need(_triple(grid), needed=f"a latent grid (t, h, w) of {size}", got=f"{grid!r}")
        checked.need(all(own >= asked for own, asked in zip(fitting, size, strict=True)),
                     needed=f"a fitting size that contains {size}", got=f"{fitting}")
        again = encoder.grid(fitting), encoder.fitting_size(fitting)
        checked.need(again == (grid, fitting), got=f"{again[0]} and {again[1]}",
                     needed=f"grid {grid} and fitting size {fitting} of the fitting size {fitting} itself")
    return grid


def _check_output(network: Coder, x: Tensor, expected: tuple[int, ...], *, called: str) -> None:
    rule = "grid" if called == "latents" else "pixel_size"
    with Check(network, f"the {called} have the size that {rule} tells",
               do="write forward(self, x, cache=None), for the sizes that the contract names") as checked:
        kept = x.clone()
        with torch.no_grad():
            out = duplicate(network).eval()(kept, None)
        checked.need(tuple(out.shape) == expected and out.dtype == torch.float32,
                     needed=f"{called} {expected} of torch.float32 for an input {tuple(x.shape)} (stride "
                     f"{tuple(network.stride)}, first_frame_alone {network.first_frame_alone})",
                     got=describe(out), do=f"correct forward, or what {rule}, stride and out_channels tell")
        checked.need_finite(out, called)
        checked.need_untouched(kept, x, "inputs")


def _check_network(network: nn.Module, x: Tensor, registry: Registry, **options: Any) -> None:
    with Check(network, "the gradient reaches the input",
               do="do not detach, round or convert to numpy on the way") as checked:
        _gradient(checked, duplicate(network).train(), x)
    check_module(network, registry, lambda one, batch: {"output": one(batch)}, x, rel=_TOLERANCE, **options)


def _gradient(checked: Check, network: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return checked.need_gradient(network(x), [x], "input")[0]


def _check_checkpointing(network: Coder, x: Tensor) -> None:
    with Check(network, "activation checkpointing changes memory, not results") as checked:
        gradients = []
        for checkpointing in (False, True):
            other = duplicate(network).train()
            other.activation_checkpointing = checkpointing
            with seeded(3):
                gradients.append({"gradient": _gradient(checked, other, x)})
        checked.need_near(*gradients, rel=_TOLERANCE, needed="the same gradient with activation_checkpointing = True",
                          do="recompute blocks by toolkit.layers.run_block, or ignore the setting")


def _check_logits(discriminator: Discriminator, pixels: Tensor) -> None:
    with Check(discriminator, "it gives finite logits (B, ...), one or more per sample") as checked, torch.no_grad():
        logits = duplicate(discriminator).train()(pixels)
        checked.need(logits.ndim > 0 and len(logits) == len(pixels) and logits.numel() > 0
                     and logits.is_floating_point(), got=describe(logits),
                     needed=f"({len(pixels)}, ...) of a float dtype for pixels {tuple(pixels.shape)}",
                     do="keep the batch first, never average it, and refuse pixels that are too small")
        checked.need_finite(logits, "logits")


def _check_second_gradient(discriminator: Discriminator, pixels: Tensor) -> None:
    with Check(discriminator, "its gradient at the pixels can be differentiated (R1)",
               do="use layers that can be differentiated twice, without once_differentiable functions") as checked:
        network, pixels = duplicate(discriminator).train(), pixels.clone().requires_grad_()
        gradient, = torch.autograd.grad(network(pixels).sum(), pixels, create_graph=True)
        if gradient.requires_grad:
            gradient.square().sum().backward()
        for parameter in network.parameters():
            if parameter.grad is not None:
                checked.need_finite(parameter.grad, "gradients", do="look for the root of zero")


def _check_last_layer(decoder: Decoder, codes: Tensor) -> None:
    network = duplicate(decoder).train()
    with Check(network, "last_layer is the weight that makes the pixels",
               do="return the last convolution's weight") as checked:
        layer = network.last_layer
        checked.need(any(layer is parameter for parameter in network.parameters()),
                     needed="one of the decoder's parameters", got=f"{type(layer).__name__}")
        checked.need_gradient(network(codes), [layer], "last layer")


def _check_causal(network: Coder, x: Tensor, *, seen: int, kept: int) -> None:
    """Check that the first ``kept`` output frames depend on the first ``seen`` input frames only, also in a stream."""
    network = duplicate(network).eval()
    with Check(network, "it is causal: nothing depends on later frames") as checked, torch.no_grad():
        whole, other = network(x), x.clone()
        other[:, :, seen:] = 0.5 - other[:, :, seen:]
        first, again = ({"output": out[:, :, :kept]} for out in (whole, network(other)))
        checked.need_near(again, first, rel=_TOLERANCE,
                          needed=f"the first {kept} of the output to stay when the input changes from {seen} on",
                          do="pad time on the left only (toolkit.layers.CausalConv3d), normalize frame by frame, or "
                             "set causal = False")
    length = x.shape[2]
    with Check(network, "a stream through its cache gives what the whole gives") as checked, torch.no_grad():
        for sizes in ([1] * length, [2, length - 2]) if length > 2 else ([1] * length,):
            cache: dict[nn.Module, Tensor] = {}
            joined = torch.cat([network(chunk, cache) for chunk in x.split(sizes, dim=2)], dim=2)
            checked.need_near({"output": joined}, {"output": whole}, rel=_TOLERANCE,
                              needed=f"for chunks of {sizes} the output of the whole, {tuple(whole.shape)}",
                              do="pass the cache to every layer that looks back in time, or set causal = False")

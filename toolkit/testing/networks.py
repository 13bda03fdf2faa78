"""Checks of encoders, decoders and discriminators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolkit.contracts import Decoder, Discriminator, Encoder
from toolkit.registry import DECODERS, DISCRIMINATORS, ENCODERS, Registry
from toolkit.testing.checks import check, check_type, describe
from toolkit.testing.components import (
    Size,
    check_modes,
    check_saving,
    duplicate,
    is_count,
    near,
    seeded,
    tiny_latents,
    tiny_pixels,
)

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
        sizes = sizes or [encoder.pixel_size(grid) for grid in GRIDS]
        grids = [_check_grid(encoder, size) for size in sizes]
        for size, grid in zip(sizes, grids, strict=True):
            pixels = tiny_pixels(channels=encoder.in_channels, size=encoder.fitting_size(size))
            _check_output(encoder, pixels, (2, encoder.out_channels, *grid), called="latents")
        _check_coder(encoder, pixels, ENCODERS, called="pixels")
        if encoder.causal:
            frames, *area = pixels.shape[2:]
            with check(encoder, "a causal network takes any number of frames") as checked:
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
            with check(decoder, "pixel_size tells the size of its pixels", do="give check_decoder grids that it takes"):
                size = decoder.pixel_size(grid)
            codes = tiny_latents(dim=decoder.in_channels, grid=grid)
            _check_output(decoder, codes, (2, decoder.out_channels, *size), called="pixels")
        _check_coder(decoder, codes, DECODERS, called="codes")
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
        with check(discriminator, "in_channels, size and batch_statistics are declared") as checked:
            own, flag = discriminator.size, discriminator.batch_statistics
            checked.need(is_count(discriminator.in_channels), needed="in_channels, an int from 1 on",
                         got=f"{discriminator.in_channels!r}", do="set self.in_channels")
            checked.need(own is None or _triple(own), needed="size, (T, H, W) or None", got=f"{own!r}",
                         do="set self.size, None for any size")
            checked.need(isinstance(flag, bool), needed="batch_statistics, True or False", got=f"{flag!r}",
                         do="set it on the class")
        pixels = tiny_pixels(batch=3, channels=discriminator.in_channels, size=own or size)
        _check_logits(discriminator, pixels)
        if own is not None:
            with check(discriminator, "another size than its own is refused") as checked:
                network, other = duplicate(discriminator), (own[0] + 1, *own[1:])
                checked.need_refusal(lambda: network(tiny_pixels(channels=network.in_channels, size=other)),
                                     of=f"pixels of size {other}", do="compare the pixels' size with self.size")
        _check_gradient(discriminator, pixels, called="pixels")
        _check_second_gradient(discriminator, pixels)
        check_modes(discriminator, lambda one: one(pixels))
        for training in (False, True):
            if not discriminator.batch_statistics:
                _check_batch(discriminator, pixels, training=training,
                             do="use no statistic of the batch, or set batch_statistics = True")
        check_saving(discriminator, DISCRIMINATORS, lambda one: one(pixels))


def _triple(numbers: object) -> bool:
    return isinstance(numbers, tuple | list) and len(numbers) == 3 and all(map(is_count, numbers))


def _check_attributes(network: Coder, contract: type) -> None:
    check_type(network, contract)
    with check(network, "its channels, stride, first_frame_alone and causal are declared",
               do="set them on the class or in the constructor, after super().__init__()") as checked:
        for name in ("in_channels", "out_channels"):
            checked.need(is_count(getattr(network, name)), needed=f"{name}, an int from 1 on",
                         got=f"{getattr(network, name)!r}", do=f"set self.{name}")
        checked.need(_triple(network.stride), needed="stride (s_t, s_h, s_w), ints from 1 on",
                     got=f"{network.stride!r}", do="set self.stride")
        for name in ("first_frame_alone", "causal", "activation_checkpointing"):
            checked.need(isinstance(getattr(network, name), bool), needed=f"{name}, True or False",
                         got=f"{getattr(network, name)!r}", do=f"set {name}")


def _check_grid(encoder: Encoder, size: Size) -> Size:
    do = "correct grid and fitting_size, or give check_encoder sizes that the network takes"
    with check(encoder, "grid and fitting_size tell the sizes that it takes", do=do) as checked:
        grid, fitting = encoder.grid(size), encoder.fitting_size(size)
        checked.need(_triple(grid), needed=f"a latent grid (t, h, w) of {size}", got=f"{grid!r}", do=do)
        checked.need(all(own >= asked for own, asked in zip(fitting, size, strict=True)),
                     needed=f"a fitting size that contains {size}", got=f"{fitting}", do=do)
        checked.need((encoder.grid(fitting), encoder.fitting_size(fitting)) == (grid, fitting),
                     needed=f"grid {grid} and fitting size {fitting} of the fitting size {fitting} itself",
                     got=f"{encoder.grid(fitting)} and {encoder.fitting_size(fitting)}", do=do)
    return grid


def _check_output(network: Coder, x: Tensor, expected: tuple[int, ...], *, called: str) -> None:
    rule = "grid" if called == "latents" else "pixel_size"
    with check(network, f"the {called} have the size that {rule} tells",
               do="write forward(self, x, cache=None), for the sizes that the contract names") as checked:
        kept = x.clone()
        with torch.no_grad():
            out = duplicate(network).eval()(kept, None)
        checked.need(tuple(out.shape) == expected and out.dtype == torch.float32,
                     needed=f"{called} {expected} of torch.float32 for an input {tuple(x.shape)} (stride "
                     f"{tuple(network.stride)}, first_frame_alone {network.first_frame_alone})",
                     got=describe(out),
                     do=f"correct forward, or what {rule}, stride and out_channels tell")
        checked.need_finite(out, called, do="look for a division by zero")
        checked.need(torch.equal(kept, x), needed="an input that is left as it was", got="a changed one",
                     do="use no in-place operation on it")


def _check_coder(network: Coder, x: Tensor, registry: Registry, *, called: str) -> None:
    """The checks that encoders and decoders share, on one input."""
    _check_gradient(network, x, called=called)
    check_modes(network, lambda one: one(x))  # before other batches: random outputs differ there too
    _check_batch(network, x, training=False, do="use no statistic of the batch in eval mode")
    check_saving(network, registry, lambda one: one(x))
    with check(network, "activation checkpointing changes memory, not results") as checked:
        gradients = []
        for checkpointing in (False, True):
            other = duplicate(network).train()
            other.activation_checkpointing = checkpointing
            with seeded(3):
                gradients.append(_gradient(other, x))
        checked.need(near(*gradients, rel=_TOLERANCE), needed="the same gradient with activation_checkpointing = True",
                     got="another one", do="recompute blocks by toolkit.layers.run_block, or ignore the setting")


def _check_logits(discriminator: Discriminator, pixels: Tensor) -> None:
    with check(discriminator, "it gives finite logits (B, ...), one or more per sample") as checked, torch.no_grad():
        logits = duplicate(discriminator).train()(pixels)
        checked.need(logits.ndim > 0 and len(logits) == len(pixels) and logits.is_floating_point(),
                     needed=f"({len(pixels)}, ...) of a float dtype for pixels {tuple(pixels.shape)}",
                     got=describe(logits), do="keep the batch first, never average it")
        checked.need(bool(logits.numel()) and bool(logits.isfinite().all()), needed="finite logits",
                     got="NaN or infinity" if logits.numel() else "none",
                     do="look for a division by zero, and refuse pixels that are too small")


def _gradient(network: nn.Module, x: Tensor) -> Tensor:
    """Gradient of a random weighted sum of the output at the input."""
    x = x.clone().requires_grad_()
    out = network(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
    gradient, = torch.autograd.grad((out * weights).sum(), x, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def _check_gradient(network: nn.Module, x: Tensor, *, called: str) -> None:
    do = "do not detach, round or convert to numpy on the way"
    with check(network, f"the gradient reaches the {called}", do=do) as checked:
        gradient = _gradient(duplicate(network).train(), x)
        checked.need(bool(gradient.any()), needed="a gradient that is not zero everywhere", got="zeros or none", do=do)
        checked.need_finite(gradient, "gradients", do="look for a division by zero or the root of zero")


def _check_second_gradient(discriminator: Discriminator, pixels: Tensor) -> None:
    do = "use layers that can be differentiated twice, without once_differentiable functions"
    with check(discriminator, "its gradient at the pixels can be differentiated (R1)", do=do) as checked:
        network, pixels = duplicate(discriminator).train(), pixels.clone().requires_grad_()
        gradient, = torch.autograd.grad(network(pixels).sum(), pixels, create_graph=True)
        if gradient.requires_grad:
            gradient.square().sum().backward()
        for parameter in network.parameters():
            if parameter.grad is not None:
                checked.need_finite(parameter.grad, "gradients", do="look for the root of zero")


def _check_batch(network: nn.Module, x: Tensor, *, training: bool, do: str) -> None:
    network, mode = duplicate(network).train(training), "training" if training else "eval mode"
    with check(network, f"in {mode} a sample's output does not depend on the rest of its batch") as checked:
        outputs = []
        for batch in (x, torch.cat([x[:1], -x[1:] + 0.5]), x[:1]):
            with seeded(4), torch.no_grad():
                outputs.append(network(batch)[:1])
        for out, where in zip(outputs[1:], ("among others", "alone"), strict=True):
            checked.need(near(out, outputs[0], rel=_TOLERANCE), needed=f"for a sample {where} the output it has in a "
                         "batch", got="another one", do=do)


def _check_last_layer(decoder: Decoder, codes: Tensor) -> None:
    network = duplicate(decoder).train()
    with check(network, "last_layer is the weight that makes the pixels") as checked:
        layer = network.last_layer
        checked.need(any(layer is parameter for parameter in network.parameters()),
                     needed="one of the decoder's parameters", got=f"{type(layer).__name__}",
                     do="return the last convolution's weight")
        gradient, = torch.autograd.grad(network(codes).square().sum(), layer, allow_unused=True)
        checked.need(gradient is not None and bool(gradient.any()), needed="a gradient of the pixels at it",
                     got="none" if gradient is None else "zeros", do="return the last convolution's weight")


def _check_causal(network: Coder, x: Tensor, *, seen: int, kept: int) -> None:
    """Check that the first ``kept`` output frames depend on the first ``seen`` input frames only, also in a stream."""
    network = duplicate(network).eval()
    with check(network, "it is causal: nothing depends on later frames") as checked, torch.no_grad():
        whole = network(x)
        other = x.clone()
        other[:, :, seen:] = 0.5 - other[:, :, seen:]
        checked.need(near(network(other)[:, :, :kept], whole[:, :, :kept], rel=_TOLERANCE),
                     needed=f"the first {kept} of the output to stay when the input changes from {seen} on",
                     got="a difference", do="pad time on the left only (toolkit.layers.CausalConv3d), normalize frame "
                     "by frame, or set causal = False")
    length = x.shape[2]
    with check(network, "a stream through its cache gives what the whole gives") as checked, torch.no_grad():
        for sizes in ([1] * length, [2, length - 2]) if length > 2 else ([1] * length,):
            cache: dict[nn.Module, Tensor] = {}
            joined = torch.cat([network(chunk, cache) for chunk in x.split(sizes, dim=2)], dim=2)
            checked.need(near(joined, whole, rel=_TOLERANCE), needed=f"for chunks of {sizes} the output of the whole, "
                         f"{tuple(whole.shape)}", got=f"{tuple(joined.shape)}, other values",
                         do="pass the cache to every layer that looks back in time, or set causal = False")

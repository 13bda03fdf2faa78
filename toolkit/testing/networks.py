"""The laws of encoders, decoders and discriminators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from toolkit.contracts import Decoder, Discriminator, Encoder
from toolkit.registry import DECODERS, DISCRIMINATORS, ENCODERS, Registry
from toolkit.testing.components import (
    Size,
    check_modes,
    check_saving,
    duplicate,
    near,
    seeded,
    tiny_latents,
    tiny_pixels,
)
from toolkit.testing.violations import law

GRIDS = ((1, 2, 2), (2, 3, 2), (3, 2, 3))
Coder = Encoder | Decoder
_TOLERANCE = 1e-4  # of the largest output: other sizes mean other orders of summation


def check_encoder(encoder: Encoder, *, grids: Sequence[Size] = GRIDS) -> None:
    """Hold an encoder to all laws of its contract.

    Attributes and config; sizes by its stride; gradients; that no latent depends on later frames if it says it
    is causal, and its stream if it takes a cache; batches; eval mode; saving; activation checkpointing.

    Args:
        encoder: Built, on any device; it is copied, never changed.
        grids: Latent grids (t, h, w) to try; the last one needs three latents in time.

    Raises:
        ContractViolation: At the first law that is broken.

    Example:
        >>> from toolkit.networks import VQGANEncoder
        >>> check_encoder(VQGANEncoder(filters=4, channel_multipliers=(1, 2), z_channels=4, num_res_blocks=1))
    """
    with seeded(0):
        _check_coder_attributes(encoder, Encoder)

        def pixels(grid: Size, batch: int = 2) -> Tensor:
            return tiny_pixels(batch=batch, channels=encoder.in_channels, size=pixel_size(encoder, grid))

        for grid in grids:
            _check_output(encoder, pixels(grid), (2, encoder.out_channels, *grid), called="latents")
        _check_coder(encoder, pixels(grids[-1]), ENCODERS, called="pixels")
        if encoder.causal:
            frames = pixel_size(encoder, (grids[-1][0] - 1, 1, 1))[0]
            _check_causal(encoder, pixels(grids[-1]), seen=frames, kept=grids[-1][0] - 1)


def check_decoder(decoder: Decoder, *, grids: Sequence[Size] = GRIDS) -> None:
    """Hold a decoder to all laws of its contract: an encoder's, mirrored, and that of its last layer.

    Args:
        decoder: Built, on any device; it is copied, never changed.
        grids: Latent grids (t, h, w) to try; the last one needs three latents in time.

    Raises:
        ContractViolation: At the first law that is broken.

    Example:
        >>> from toolkit.networks import VQGANDecoder
        >>> check_decoder(VQGANDecoder(filters=4, channel_multipliers=(1, 2), z_channels=4, num_res_blocks=1))
    """
    with seeded(0):
        _check_coder_attributes(decoder, Decoder)

        def codes(grid: Size, batch: int = 2) -> Tensor:
            return tiny_latents(dim=decoder.in_channels, batch=batch, grid=grid)

        for grid in grids:
            _check_output(decoder, codes(grid), (2, decoder.out_channels, *pixel_size(decoder, grid)), called="pixels")
        _check_coder(decoder, codes(grids[-1]), DECODERS, called="codes")
        _check_last_layer(decoder, codes(grids[-1]))
        if decoder.causal:
            frames = pixel_size(decoder, (grids[-1][0] - 1, 1, 1))[0]
            _check_causal(decoder, codes(grids[-1]), seen=grids[-1][0] - 1, kept=frames)


def check_discriminator(discriminator: Discriminator, *, size: Size = (5, 32, 32)) -> None:
    """Hold a discriminator to all laws of its contract.

    Attributes and config; one or more finite logits per sample; other sizes than its own; gradients; samples
    that are judged by themselves unless it says otherwise; eval mode; saving.

    Args:
        discriminator: Built, on any device; it is copied, never changed.
        size: (T, H, W) of pixels for one that takes any size.

    Raises:
        ContractViolation: At the first law that is broken.

    Example:
        >>> from toolkit.networks import PatchGANDiscriminator
        >>> check_discriminator(PatchGANDiscriminator(filters=4, num_layers=1), size=(1, 16, 16))
    """
    with seeded(0):
        with law(discriminator, "in_channels, size and batch_statistics say what it takes") as checked:
            checked.need(isinstance(discriminator, Discriminator), needed="an instance of toolkit.Discriminator",
                         got=f"{type(discriminator).__mro__}", do="derive the class from it")
            own, flag = discriminator.size, discriminator.batch_statistics
            checked.need(_count(discriminator.in_channels), needed="in_channels, an int from 1 on",
                         got=f"{discriminator.in_channels!r}", do="set self.in_channels")
            checked.need(own is None or _triple(own), needed="size, (T, H, W) or None", got=f"{own!r}",
                         do="set self.size, None if any size will do")
            checked.need(isinstance(flag, bool), needed="batch_statistics, True or False", got=f"{flag!r}",
                         do="set it on the class")
        pixels = tiny_pixels(batch=3, channels=discriminator.in_channels, size=own or size)
        _check_logits(discriminator, pixels)
        if own is not None:
            with law(discriminator, "another size than its own is refused") as checked:
                part, other = duplicate(discriminator), (own[0] + 1, *own[1:])
                checked.need_refusal(lambda: part(tiny_pixels(channels=part.in_channels, size=other)),
                                     of=f"pixels of size {other}", do="compare the pixels' size with self.size")
        _check_gradient(discriminator, pixels, called="pixels")
        for training in (False, True):
            if not discriminator.batch_statistics:
                _check_batch(discriminator, pixels, training=training,
                             do="use no statistic of the batch, or set batch_statistics = True")
        _check_saved(discriminator, pixels, DISCRIMINATORS)


def pixel_size(part: Coder, grid: Size) -> Size:
    """(T, H, W) of the pixels that a latent grid (t, h, w) stands for.

    Example:
        >>> from toolkit.networks import MAGVIT2Encoder
        >>> pixel_size(MAGVIT2Encoder(filters=8), (2, 4, 4))   # stride (4, 8, 8), the first frame alone
        (5, 32, 32)
    """
    t, h, w = (cells * stride for cells, stride in zip(grid, part.stride, strict=True))
    return t - (part.stride[0] - 1 if part.first_frame_alone else 0), h, w


def _count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _triple(numbers: object) -> bool:
    return isinstance(numbers, tuple | list) and len(numbers) == 3 and all(map(_count, numbers))


def _check_coder_attributes(part: Coder, contract: type) -> None:
    with law(part, f"it is {'an Encoder' if contract is Encoder else 'a Decoder'}") as checked:
        checked.need(isinstance(part, contract), needed=f"an instance of toolkit.{contract.__name__}",
                     got=f"{type(part).__mro__}", do="derive the class from it")
    with law(part, "its channels, stride, first_frame_alone and causal say what it does",
             do="set them on the class or in the constructor, after super().__init__()") as checked:
        for name in ("in_channels", "out_channels"):
            checked.need(_count(getattr(part, name)), needed=f"{name}, an int from 1 on",
                         got=f"{getattr(part, name)!r}", do=f"set self.{name}")
        checked.need(_triple(part.stride), needed="stride (s_t, s_h, s_w), ints from 1 on", got=f"{part.stride!r}",
                     do="set self.stride")
        for name in ("first_frame_alone", "causal", "activation_checkpointing"):
            checked.need(isinstance(getattr(part, name), bool), needed=f"{name}, True or False",
                         got=f"{getattr(part, name)!r}", do=f"set {name}")


def _check_output(part: Coder, given: Tensor, wanted: tuple[int, ...], *, called: str) -> None:
    with law(part, f"the {called} have the size that stride and first_frame_alone tell") as checked, torch.no_grad():
        kept = given.clone()
        out = duplicate(part).eval()(kept)
        rule = "T = 1 + (t - 1) * s_t" if part.first_frame_alone else "T = t * s_t"
        checked.need(tuple(out.shape) == wanted and out.dtype == torch.float32,
                     needed=f"{called} {wanted} of torch.float32 for an input {tuple(given.shape)} (stride "
                     f"{tuple(part.stride)}, {rule})", got=f"{tuple(out.shape)} of {out.dtype}",
                     do="correct forward, or what stride, first_frame_alone and out_channels say")
        checked.need(bool(out.isfinite().all()), needed=f"finite {called}", got="NaN or infinity",
                     do="look for a division by zero")
        checked.need(torch.equal(kept, given), needed="an input that is left as it was", got="a changed one",
                     do="use no in-place operation on it")


def _check_coder(part: Coder, given: Tensor, registry: Registry, *, called: str) -> None:
    """What encoders and decoders have in common, on one input."""
    _check_gradient(part, given, called=called)
    _check_batch(part, given, training=False, do="use no statistic of the batch in eval mode")
    _check_saved(part, given, registry)
    with law(part, "activation checkpointing changes memory, not results") as checked:
        results = []
        for wish in (False, True):
            other = duplicate(part).train()
            other.activation_checkpointing = wish
            with seeded(3):
                results.append(_gradient(other, given))
        checked.need(near(*results, rel=_TOLERANCE), needed="the same gradient with activation_checkpointing = True",
                     got="another one", do="recompute blocks by toolkit.layers.run_block, or ignore the wish")


def _check_logits(discriminator: Discriminator, pixels: Tensor) -> None:
    with law(discriminator, "it gives finite logits (B, ...), one or more per sample") as checked, torch.no_grad():
        logits = duplicate(discriminator).train()(pixels)
        checked.need(logits.ndim > 0 and len(logits) == len(pixels) and logits.is_floating_point(),
                     needed=f"({len(pixels)}, ...) of a float dtype for pixels {tuple(pixels.shape)}",
                     got=f"{tuple(logits.shape)} of {logits.dtype}", do="keep the batch first, never average it")
        checked.need(bool(logits.numel()) and bool(logits.isfinite().all()), needed="finite logits",
                     got="NaN or infinity" if logits.numel() else "none",
                     do="look for a division by zero, and refuse pixels that are too small")


def _gradient(part: nn.Module, given: Tensor) -> Tensor:
    """Of a random sum of the output."""
    given = given.clone().requires_grad_()
    out = part(given)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
    gradient, = torch.autograd.grad((out * pull).sum(), given, allow_unused=True)
    return torch.zeros_like(given) if gradient is None else gradient


def _check_gradient(part: nn.Module, given: Tensor, *, called: str) -> None:
    do = "do not detach, round or convert to numpy on the way"
    with law(part, f"the gradient reaches the {called}", do=do) as checked:
        gradient = _gradient(duplicate(part).train(), given)
        checked.need(bool(gradient.any()), needed="a gradient that is not zero everywhere", got="zeros or none", do=do)
        checked.need(bool(gradient.isfinite().all()), needed="finite gradients", got="NaN or infinity",
                     do="look for a division by zero or the root of zero")


def _check_batch(part: nn.Module, given: Tensor, *, training: bool, do: str) -> None:
    part, mode = duplicate(part).train(training), "training" if training else "eval mode"
    with law(part, f"in {mode} a sample's output does not depend on the rest of its batch") as checked, torch.no_grad():
        outputs = []
        for batch in (given, torch.cat([given[:1], -given[1:] + 0.5]), given[:1]):
            with seeded(4):
                outputs.append(part(batch)[:1])
        for out, where in zip(outputs[1:], ("among others", "alone"), strict=True):
            checked.need(near(out, outputs[0], rel=_TOLERANCE), needed=f"for a sample {where} the output it has in a "
                         "batch", got="another one", do=do)


def _check_saved(part: nn.Module, given: Tensor, registry: Registry) -> None:
    check_modes(part, lambda one: one(given))
    check_saving(part, registry, lambda one: one(given))


def _check_last_layer(decoder: Decoder, codes: Tensor) -> None:
    part = duplicate(decoder).train()
    with law(part, "last_layer is the weight that makes the pixels") as checked:
        layer = part.last_layer
        checked.need(any(layer is parameter for parameter in part.parameters()),
                     needed="one of the decoder's parameters", got=f"{type(layer).__name__}",
                     do="return the last convolution's weight")
        pixels = part(codes)
        gradient, = torch.autograd.grad(pixels.square().sum(), layer, allow_unused=True)
        checked.need(gradient is not None and bool(gradient.any()), needed="a gradient of the pixels at it",
                     got="none" if gradient is None else "zeros", do="return the last convolution's weight")


def _check_causal(part: Coder, given: Tensor, *, seen: int, kept: int) -> None:
    """Of ``seen`` frames or latents of the input follow ``kept`` of the output, whatever comes later."""
    part = duplicate(part).eval()
    with law(part, "it is causal: nothing depends on later frames") as checked, torch.no_grad():
        whole = part(given)
        other = given.clone()
        other[:, :, seen:] = 0.5 - other[:, :, seen:]
        checked.need(near(part(other)[:, :, :kept], whole[:, :, :kept], rel=_TOLERANCE),
                     needed=f"the first {kept} of the output to stay when the input changes from {seen} on",
                     got="a difference", do="pad time on the left only (toolkit.layers.CausalConv3d), normalize frame "
                     "by frame, or set causal = False")
    if part.first_frame_alone and "cache" in inspect.signature(part.forward).parameters:
        for sizes in ([1] * given.shape[2], [2, given.shape[2] - 2]):
            _check_stream(part, given.split(sizes, dim=2), whole, sizes)


def _check_stream(part: Callable[..., Tensor], chunks: Sequence[Tensor], whole: Tensor, sizes: list[int]) -> None:
    with law(part, "a stream through its cache gives what the whole gives") as checked, torch.no_grad():
        cache: dict[nn.Module, Tensor] = {}
        joined = torch.cat([part(chunk, cache) for chunk in chunks], dim=2)
        checked.need(near(joined, whole, rel=_TOLERANCE), needed=f"for chunks of {sizes} the output of the whole, "
                     f"{tuple(whole.shape)}", got=f"{tuple(joined.shape)}, other values",
                     do="pass the cache to every layer that looks back in time")

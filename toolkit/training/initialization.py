"""Initialization from a tokenizer of the same network or from an image tokenizer (inflation); frozen components."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from toolkit.config import ConfigError
from toolkit.contracts import Discriminator, Quantizer
from toolkit.layers import DepthToSpaceUpsample
from toolkit.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def inflate(weight: Tensor, shape: Sequence[int], temporal_stride: int) -> Tensor | None:
    """Inflate a tensor of an image network for a video network: a single frame gives the same output.

    A kernel goes to the last temporal slice, where a causal convolution sees the frame itself; the other slices are
    zero. Output channels of an upsampling by ``temporal_stride`` are repeated: the upsampled frames are equal
    (Yu et al., arXiv:2310.05737, sec. 3.2). None if the tensor does not fit ``shape``.
    """
    if temporal_stride > 1 and shape[0] == temporal_stride * weight.shape[0]:
        weight = weight.repeat(temporal_stride, *(1 for _ in weight.shape[1:]))
    if weight.ndim == 5 and len(shape) == 5 and weight.shape[2] == 1 < shape[2]:
        kernel = weight.new_zeros(*weight.shape[:2], shape[2], *weight.shape[3:])
        kernel[:, :, -1:] = weight
        weight = kernel
    return weight if tuple(weight.shape) == tuple(shape) else None


def initialize(tokenizer: Tokenizer, source: Tokenizer) -> None:
    """Copy the weights of ``source``, the same network or its image version, to a tokenizer; inflate if needed."""
    temporal_strides = {f"{name}.conv.{kind}": module.stride[0] for name, module in tokenizer.named_modules()
                        if isinstance(module, DepthToSpaceUpsample) for kind in ("weight", "bias")}
    source_state, state, mismatched = source.state_dict(), {}, []
    for name, tensor in tokenizer.state_dict().items():
        weight = source_state.pop(name, None)
        state[name] = None if weight is None else inflate(weight, tensor.shape, temporal_strides.get(name, 1))
        if state[name] is None:
            shape = "missing" if weight is None else tuple(weight.shape)
            mismatched.append(f"{name} (needed {tuple(tensor.shape)}, got {shape})")
    mismatched += [f"{name} (not in the tokenizer)" for name in source_state]
    if mismatched:
        more = f" and {len(mismatched) - 10} more" if len(mismatched) > 10 else ""
        raise ConfigError(f"training.init_from does not fit the tokenizer: {', '.join(mismatched[:10])}{more}. Remove "
                          "the config's tokenizer to train init_from's own network, or give both the same sizes.")
    tokenizer.load_state_dict(state)
    _warn_of_differences(tokenizer, source)


def _warn_of_differences(tokenizer: Tokenizer, source: Tokenizer) -> None:
    """Warn if the weights fit but the networks compute differently, for example with another padding."""
    may_differ = {"temporal_kernel", "temporal_downsample"}
    if source.encoder.config.get("temporal_kernel") == 1:
        may_differ.add("kept_frame")  # no effect on a single frame
        networks = tokenizer.encoder, tokenizer.decoder, source.encoder, source.decoder
        if "position" not in [network.config.get("norm_scope") for network in networks]:
            may_differ.add("norm_scope")  # the frame is the clip
    for name in ("encoder", "quantizer", "decoder"):
        ours, theirs = getattr(tokenizer, name).config, getattr(source, name).config
        differing = [f"{key}={ours.get(key)!r} (checkpoint: {theirs.get(key)!r})"
                     for key in sorted({*ours, *theirs} - may_differ) if ours.get(key) != theirs.get(key)]
        if differing:
            logger.warning("training.init_from: the %s differs from that of the checkpoint: %s.", name,
                           ", ".join(differing))


def initialize_discriminators(discriminators: Iterable[Discriminator], source: Discriminator, *, name: str) -> None:
    """Copy the weights of ``source`` to each discriminator of the same shapes; the log calls it ``name``."""
    weights = source.state_dict()
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    matching = [discriminator for discriminator in discriminators
                if {key: tensor.shape for key, tensor in discriminator.state_dict().items()} == shapes]
    for discriminator in matching:
        discriminator.load_state_dict(weights)
        logger.info("the %s starts from %s.", type(discriminator).__name__, name)
    if not matching:
        logger.warning("%s does not have the tensors of the config's discriminator, which keeps its random weights.",
                       name)


def freeze_all_but(tokenizer: Tokenizer, trainable: Sequence[str]) -> None:
    """Freeze all modules but the named ones, such as "decoder" or "decoder.levels.3"."""
    modules: dict[str, nn.Module] = dict(tokenizer.named_modules())
    unknown = [name for name in trainable if not name or name not in modules]
    if unknown:
        raise ConfigError("training.trainable names modules of the tokenizer, such as encoder, quantizer and decoder, "
                          f"got {', '.join(map(repr, unknown))}.")
    tokenizer.requires_grad_(False)
    for name in trainable:
        modules[name].requires_grad_(True)
    for path, module in modules.items():
        if isinstance(module, Quantizer):  # ``frozen`` also stops the updates of an EMA codebook
            module.frozen = not any(path == name or path.startswith(f"{name}.") for name in trainable)
    if not any(parameter.requires_grad for parameter in tokenizer.parameters()):
        raise ConfigError(f"training.trainable={list(trainable)} leaves nothing to train; these modules have no "
                          "parameters.")


def train_mode(tokenizer: Tokenizer) -> None:
    """Set train mode, but eval mode for a frozen encoder, and for a frozen quantizer behind a frozen encoder.

    A trained encoder needs the quantizer's losses and straight-through gradient, which exist in train mode only.
    """
    tokenizer.train()
    if _learns(tokenizer.encoder):
        return
    tokenizer.encoder.eval()
    if not _learns(tokenizer.quantizer) and all(
            child.frozen for child in tokenizer.quantizer.modules() if isinstance(child, Quantizer)):
        tokenizer.quantizer.eval()


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())

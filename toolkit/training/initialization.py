"""Starting from an existing tokenizer: the same network, its image twin, or with frozen components."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from toolkit.config import ConfigError
from toolkit.contracts import Discriminator, Quantizer
from toolkit.layers import DepthToSpaceUpsample
from toolkit.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def inflated(weight: Tensor, shape: Sequence[int], *, s_t: int = 1) -> Tensor | None:
    """An image network's tensor for the video network, so that a single frame gives the same numbers.

    A kernel goes to the last temporal slice, where a causal convolution sees the frame itself, and the
    others are zero; an upsampling that also grows time makes all its frames alike, so its channels are
    repeated (Yu et al., arXiv:2310.05737, sec. 3.2). None if the shapes cannot agree.
    """
    if s_t > 1 and shape[0] == s_t * weight.shape[0]:
        weight = weight.repeat(s_t, *(1 for _ in weight.shape[1:]))
    if weight.ndim == 5 and len(shape) == 5 and weight.shape[2] == 1 < shape[2]:
        kernel = weight.new_zeros(*weight.shape[:2], shape[2], *weight.shape[3:])
        kernel[:, :, -1:] = weight
        weight = kernel
    return weight if tuple(weight.shape) == tuple(shape) else None


def initialize(tokenizer: Tokenizer, source: Tokenizer) -> None:
    """Give a tokenizer the weights of another, of the same network or of its image twin."""
    growth = {f"{name}.conv.{kind}": module.stride[0] for name, module in tokenizer.named_modules()
              if isinstance(module, DepthToSpaceUpsample) for kind in ("weight", "bias")}
    source_state, state, mismatched = source.state_dict(), {}, []
    for name, tensor in tokenizer.state_dict().items():
        weight = source_state.pop(name, None)
        inflated_weight = None if weight is None else inflated(weight, tensor.shape, s_t=growth.get(name, 1))
        if inflated_weight is None:
            shape = "missing" if weight is None else tuple(weight.shape)
            mismatched.append(f"{name} (needed {tuple(tensor.shape)}, got {shape})")
        else:
            state[name] = inflated_weight
    mismatched += [f"{name} (left over)" for name in source_state]
    if mismatched:
        more = f" and {len(mismatched) - 10} more" if len(mismatched) > 10 else ""
        raise ConfigError(f"training.init_from does not fit the tokenizer: {', '.join(mismatched[:10])}{more}. Remove "
                          "the config's tokenizer to train that one, or make their sizes agree.")
    tokenizer.load_state_dict(state)
    _warn_of_differences(tokenizer, source)


def _warn_of_differences(tokenizer: Tokenizer, source: Tokenizer) -> None:
    """Warn if the weights fit but the networks compute differently, for example with another padding."""
    of_time = {"temporal_kernel", "temporal_downsample"}
    if source.encoder.config.get("temporal_kernel") == 1:
        of_time |= {"norm_scope", "kept_frame"}  # an image's one frame is its clip
    for name in ("encoder", "quantizer", "decoder"):
        ours, theirs = getattr(tokenizer, name).config, getattr(source, name).config
        differing = [f"{key}={ours.get(key)!r} (checkpoint: {theirs.get(key)!r})"
                     for key in sorted({*ours, *theirs} - of_time) if ours.get(key) != theirs.get(key)]
        if differing:
            logger.warning("training.init_from: the %s differs from that of the checkpoint: %s.", name,
                           ", ".join(differing))


def initialize_discriminators(discriminators: Iterable[Discriminator], source: Discriminator, *, name: str) -> None:
    """Copy the weights of ``source`` to every discriminator of the same tensors; ``name`` is for messages."""
    weights = source.state_dict()
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    matching = [one for one in discriminators if {k: t.shape for k, t in one.state_dict().items()} == shapes]
    for discriminator in matching:
        discriminator.load_state_dict(weights)
        logger.info("the %s starts from %s.", type(discriminator).__name__, name)
    if not matching:
        logger.warning("%s has other tensors than the config's discriminator, which starts afresh.", name)


def freeze_all_but(tokenizer: Tokenizer, trainable: Sequence[str]) -> None:
    """Let only the named modules learn, such as "decoder" or "decoder.levels.3"."""
    modules: dict[str, nn.Module] = dict(tokenizer.named_modules())
    unknown = [name for name in trainable if not name or name not in modules]
    if unknown:
        raise ConfigError("training.trainable names modules of the tokenizer, such as encoder, quantizer and decoder, "
                          f"got {', '.join(map(repr, unknown))}.")
    tokenizer.requires_grad_(False)
    for name in trainable:
        modules[name].requires_grad_(True)
    for path, module in modules.items():
        if isinstance(module, Quantizer):  # it may learn by other means than gradients
            module.frozen = not any(path == name or path.startswith(f"{name}.") for name in trainable)
    if not any(parameter.requires_grad for parameter in tokenizer.parameters()):
        raise ConfigError(f"training.trainable={list(trainable)} leaves nothing to train; these modules have no "
                          "parameters.")


def train_mode(tokenizer: Tokenizer) -> None:
    """Set train mode, except for an encoder that does not learn, and for the quantizer if neither learns: eval mode.

    A quantizer behind an encoder that learns is in train mode even without parameters of its own, since
    the encoder needs its losses and its straight-through gradient.
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

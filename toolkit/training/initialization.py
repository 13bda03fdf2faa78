"""Starting from a tokenizer that exists: the same network, its image twin, or with parts held fixed."""

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
    others are zero; an upsampling that also grows time makes the same of every one of its frames, so its
    channels are repeated (Yu et al., arXiv:2310.05737, sec. 3.2).

    Args:
        weight: (out, in, 1, k_h, k_w) or (out,).
        shape: Of the video network's tensor.
        s_t: By how much an upsampling grows time, whose channels have s_t as their slowest part.

    Returns:
        The tensor, or None if it cannot be had.

    Example:
        >>> import torch
        >>> inflated(torch.ones(1, 1, 1, 1, 1), (1, 1, 3, 1, 1)).flatten().tolist()
        [0.0, 0.0, 1.0]
    """
    if s_t > 1 and shape[0] == s_t * weight.shape[0]:
        weight = weight.repeat(s_t, *(1 for _ in weight.shape[1:]))
    if weight.ndim == 5 and len(shape) == 5 and weight.shape[2] == 1 < shape[2]:
        kernel = weight.new_zeros(*weight.shape[:2], shape[2], *weight.shape[3:])
        kernel[:, :, -1:] = weight
        weight = kernel
    return weight if tuple(weight.shape) == tuple(shape) else None


def initialize(tokenizer: Tokenizer, source: Tokenizer) -> None:
    """Give a tokenizer the weights of another, of the same network or of its image twin.

    Raises:
        ConfigError: If a tensor of either has no counterpart; the message names them, and nothing changes.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> config = load_config("configs/demo_video.py").tokenizer
        >>> first, second = build_tokenizer(config), build_tokenizer(config)
        >>> initialize(first, second)
        >>> bool((first.decoder.last_layer == second.decoder.last_layer).all())
        True
    """
    growth = {f"{name}.conv.{kind}": module.stride[0] for name, module in tokenizer.named_modules()
              if isinstance(module, DepthToSpaceUpsample) for kind in ("weight", "bias")}
    given, state, faults = source.state_dict(), {}, []
    for name, tensor in tokenizer.state_dict().items():
        weight = given.pop(name, None)
        fitting = None if weight is None else inflated(weight, tensor.shape, s_t=growth.get(name, 1))
        if fitting is None:
            had = "missing" if weight is None else tuple(weight.shape)
            faults.append(f"{name} (needed {tuple(tensor.shape)}, given {had})")
        else:
            state[name] = fitting
    faults += [f"{name} (left over)" for name in given]
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise ConfigError(f"training.init_from does not fit the tokenizer: {', '.join(faults[:10])}{more}. Leave the "
                          "config's tokenizer out to train the one that is given, or make their sizes agree.")
    tokenizer.load_state_dict(state)
    _warn_of_differences(tokenizer, source)


def _warn_of_differences(tokenizer: Tokenizer, source: Tokenizer) -> None:
    """Weights may fit although a network computes otherwise, with another padding say."""
    of_time = {"temporal_kernel", "temporal_downsample"}
    if source.encoder.config.get("temporal_kernel") == 1:
        of_time |= {"norm_scope", "kept_frame"}  # an image's one frame is its clip
    for part in ("encoder", "quantizer", "decoder"):
        ours, theirs = getattr(tokenizer, part).config, getattr(source, part).config
        differing = [f"{key}={ours.get(key)!r} (there {theirs.get(key)!r})"
                     for key in sorted({*ours, *theirs} - of_time) if ours.get(key) != theirs.get(key)]
        if differing:
            logger.warning("training.init_from: the %s is not quite the given one's: %s.", part, ", ".join(differing))


def initialize_discriminators(discriminators: Iterable[Discriminator], source: Discriminator, *, name: str) -> None:
    """Copy the weights of ``source`` to every discriminator of the same tensors; ``name`` is for messages."""
    weights = source.state_dict()
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    matching = [one for one in discriminators if {k: t.shape for k, t in one.state_dict().items()} == shapes]
    for discriminator in matching:
        discriminator.load_state_dict(weights)
        logger.info("the %s starts from %s.", type(discriminator).__name__, name)
    if not matching:
        logger.warning("%s is not like the config's discriminator, which starts afresh.", name)


def freeze_all_but(tokenizer: Tokenizer, trainable: Sequence[str]) -> None:
    """Let only the named parts learn.

    Args:
        tokenizer: Whose other parameters ask for no gradients from now on.
        trainable: Parts such as "decoder", or parts of parts such as "decoder.levels.3".

    Raises:
        ConfigError: If a name is no part, or no parameter is left to train.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer)
        >>> freeze_all_but(tokenizer, ["decoder.conv_out"])
        >>> [name for name, parameter in tokenizer.named_parameters() if parameter.requires_grad]
        ['decoder.conv_out.weight', 'decoder.conv_out.bias']
    """
    parts: dict[str, nn.Module] = dict(tokenizer.named_modules())
    unknown = [name for name in trainable if not name or name not in parts]
    if unknown:
        raise ConfigError("training.trainable names parts of the tokenizer, such as encoder, quantizer and decoder, "
                          f"got {', '.join(map(repr, unknown))}.")
    tokenizer.requires_grad_(False)
    for name in trainable:
        parts[name].requires_grad_(True)
    for place, part in parts.items():
        if isinstance(part, Quantizer):  # which may learn by other means than gradients
            part.frozen = not any(place == name or place.startswith(f"{name}.") for name in trainable)
    if not any(parameter.requires_grad for parameter in tokenizer.parameters()):
        raise ConfigError(f"training.trainable={list(trainable)} leaves nothing to train; these parts have no "
                          "parameters.")


def train_mode(tokenizer: Tokenizer) -> None:
    """Train mode, but for an encoder of which nothing learns, and the quantizer behind it if that learns nothing
    either: they stay as they are used.

    A quantizer behind an encoder that learns is in train mode even without parameters of its own, since
    the encoder needs its losses and its straight-through gradient.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer)
        >>> freeze_all_but(tokenizer, ["decoder"])
        >>> train_mode(tokenizer)
        >>> tokenizer.encoder.training, tokenizer.quantizer.training, tokenizer.decoder.training
        (False, False, True)
    """
    tokenizer.train()
    if _learns(tokenizer.encoder):
        return
    tokenizer.encoder.eval()
    if not _learns(tokenizer.quantizer) and all(
            part.frozen for part in tokenizer.quantizer.modules() if isinstance(part, Quantizer)):
        tokenizer.quantizer.eval()


def _learns(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())

"""From configs to objects: the only place that reads one and calls the registries."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from toolkit.config import ConfigError, check_keys
from toolkit.contracts import Discriminator, Metric, constructor_parameters
from toolkit.registry import DECODERS, DISCRIMINATORS, ENCODERS, METRICS, QUANTIZERS, Registry, UnknownComponentError
from toolkit.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def build_part(registry: Registry, config: Mapping[str, Any], **defaults: Any) -> Any:
    """Build the part a config describes, innermost ``type`` first.

    Args:
        registry: Where the part and its children (arguments that have a ``type`` themselves, or
            lists of such) are looked up.
        config: ``type`` and arguments.
        defaults: Arguments to use where the config does not state them.

    Example:
        >>> from toolkit.registry import LOSSES
        >>> build_part(LOSSES, dict(type="L1")).config
        {'type': 'L1'}
    """
    def child(value: Any) -> Any:
        if isinstance(value, Mapping) and "type" in value:
            return build_part(registry, value)
        if isinstance(value, list | tuple):
            return type(value)(child(item) for item in value)
        return value

    if not isinstance(config, Mapping):
        return registry.build(config)  # which says what a config looks like
    return registry.build(defaults | {key: child(value) for key, value in config.items()})


def build_tokenizer(config: Mapping[str, Any]) -> Tokenizer:
    """Build a tokenizer from ``dict(encoder=..., quantizer=..., decoder=...)``.

    The quantizer comes first: its ``dim`` becomes the encoder's ``out_channels`` and the decoder's
    ``in_channels`` where the config does not state them.

    Raises:
        ConfigError: If a part is missing or another key is there.

    Example:
        >>> from toolkit import load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer)
        >>> tokenizer.encoder.out_channels == tokenizer.quantizer.dim == tokenizer.decoder.in_channels
        True
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"tokenizer is configured as dict(encoder=..., quantizer=..., decoder=...), got {config!r}.")
    check_keys("tokenizer", config, ("encoder", "quantizer", "decoder"))
    missing = [key for key in ("encoder", "quantizer", "decoder") if key not in config]
    if missing:
        raise ConfigError(f"tokenizer needs an encoder, a quantizer and a decoder, got no {' and no '.join(missing)}.")
    quantizer = build_part(QUANTIZERS, config["quantizer"])
    encoder = build_part(ENCODERS, config["encoder"], out_channels=quantizer.dim)
    decoder = build_part(DECODERS, config["decoder"], in_channels=quantizer.dim)
    return Tokenizer(encoder, quantizer, decoder)


def build_metrics(configs: list[Mapping[str, Any]], tokenizer: Tokenizer) -> list[Metric]:
    """Build metrics; those that take ``codebook_size``, ``num_codebooks`` and ``digits`` get the tokenizer's.

    A continuous bottleneck has no codebook: metrics that ask for one are left out, and logged.

    Example:
        >>> from toolkit import load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer)
        >>> [type(metric).__name__ for metric in build_metrics([dict(type="PSNR")], tokenizer)]
        ['PSNR']
    """
    codebook = {"codebook_size": tokenizer.codebook_size, "num_codebooks": tokenizer.num_codebooks,
                "digits": tokenizer.digits}
    metrics = []
    for config in configs:
        takes = constructor_parameters(METRICS.get(config["type"])) if "type" in config else {}
        if "codebook_size" in takes and not tokenizer.codebook_size and "codebook_size" not in config:
            logger.info("metric %s is left out: the bottleneck is continuous and has no codebook.", config["type"])
            continue
        metrics.append(build_part(METRICS, config, **{key: codebook[key] for key in codebook if key in takes}))
    return metrics


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer written by ``save_pretrained``, in eval mode, on the CPU.

    Nothing in the files is executed: the config is JSON, the weights are safetensors, and only
    registered parts are built.

    Args:
        path: Its directory, one of its two files, or a Hugging Face hub id (``user/name``).

    Raises:
        FileNotFoundError: If there is no such directory, file or hub repository.
        ValueError: If a file is damaged, or weights and config do not fit each other.

    Example:
        >>> load_tokenizer("no/such/place/at/all")
        Traceback (most recent call last):
        FileNotFoundError: no tokenizer at no/such/place/at/all: it is no directory with config.json and ...
    """
    return _load(tokenizer_directory(path), f"tokenizer {path}", build_tokenizer)


def load_discriminator(directory: str | Path) -> Discriminator:
    """Load a discriminator written by ``save_part``, such as a conversion's, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: If the directory has no ``config.json`` and ``model.safetensors``.
        ValueError: If a file is damaged, or weights and config do not fit each other.

    Example:
        >>> import tempfile
        >>> from toolkit.networks import PatchGANDiscriminator
        >>> from toolkit.tokenizer import save_part
        >>> folder = tempfile.mkdtemp()
        >>> save_part(PatchGANDiscriminator(filters=8), folder)
        >>> type(load_discriminator(folder)).__name__
        'PatchGANDiscriminator'
    """
    return _load(Path(directory), f"discriminator {directory}", partial(build_part, DISCRIMINATORS))


def _load(directory: Path, who: str, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The part in a directory; its weights and config must agree."""
    try:
        config = json.loads((directory / "config.json").read_text())
        weights = load_file(directory / "model.safetensors")
        with safe_open(directory / "model.safetensors", "pt") as file:
            plugins = json.loads((file.metadata() or {}).get("plugins", "{}"))  # as save_part wrote it
    except (ValueError, SafetensorError) as error:  # ValueError: no JSON, or no text at all
        raise ValueError(f"{who}: config.json or model.safetensors is damaged ({error}); "
                         "write or download them again.") from error
    try:
        part = build(config)
    except UnknownComponentError as error:
        if not plugins:
            raise
        named = ", ".join(f"{distribution} {version}" for distribution, version in plugins.items())
        raise UnknownComponentError(f"{error} This {who.split()[0]} was written with {named}; pip install "
                                    f"{'it' if len(plugins) == 1 else 'them'}.") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        odd = sorted(f"{name} {wanted.get(name, 'not in config')} / {found.get(name, 'not in weights')}"
                     for name, _ in wanted.items() ^ found.items())
        raise ValueError(f"{who}: config and weights disagree on {len(set(odd))} tensors: "
                         f"{'; '.join(sorted(set(odd))[:5])}.")
    part.load_state_dict(weights)
    return part.eval()


def tokenizer_directory(path: str | Path) -> Path:
    """The folder with ``config.json`` and ``model.safetensors``: a local one, or a hub id's, downloaded.

    Args:
        path: A run's ``tokenizer/`` folder or a file in it, or a hub id such as ``"user/name"``.

    Raises:
        FileNotFoundError: If it is neither.

    Example:
        >>> tokenizer_directory("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: no tokenizer at no/such/folder: it is no directory with config.json and ...
    """
    local = Path(path)
    local = local.parent if local.is_file() else local
    if (local / "config.json").is_file() and (local / "model.safetensors").is_file():
        return local
    if not local.exists() and str(path).count("/") == 1 and not str(path).startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(str(path), allow_patterns=["config.json", "model.safetensors"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise FileNotFoundError(f"no tokenizer at {path}: no such directory, and the hub did not give "
                                    f"it ({error}).") from error
    raise FileNotFoundError(f"no tokenizer at {path}: it is no directory with config.json and "
                            "model.safetensors (a run writes them to work_dir/tokenizer/) and no hub id.")

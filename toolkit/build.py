"""From configs to objects: the only place that reads one and calls the registries."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.config import ConfigError, check_keys
from toolkit.contracts import Discriminator, Metric, constructor_parameters
from toolkit.offers import PluginError, in_one_line
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

    Nothing in the files is executed: the config is JSON, the weights are safetensors, only registered
    parts are built, and no more of them than the weights account for.

    Args:
        path: Its directory, one of its two files, or a Hugging Face hub id (``user/name``).

    Raises:
        FileNotFoundError: If there is no such directory, file or hub repository.
        UnknownComponentError: If the config names a part that is neither built in nor offered by a plugin.
        PluginError: If a plugin offers it, and it cannot be used.
        TypeError: If a part does not take its arguments.
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
        config = read_part_config(directory / "config.json")
        weights = load_file(directory / "model.safetensors")
        with safe_open(directory / "model.safetensors", "pt") as file:
            plugins = _read_plugins(file.metadata() or {})
    except (RecursionError, ValueError, SafetensorError) as error:  # ValueError: no JSON, or no text at all
        raise ValueError(f"{who}: config.json or model.safetensors is damaged ({error}); "
                         "write or download them again.") from error
    try:
        with _Budget(weights):
            part = build(config)
    except UnknownComponentError as error:
        named = ", ".join(f"{distribution} {version}" for distribution, version in plugins.items())
        hint = (f" This {who.split()[0]} was written with {named}; pip install "
                f"{'it' if len(plugins) == 1 else 'them'}." if plugins else "")
        raise UnknownComponentError(f"{who}: {error}{hint}") from error
    except PluginError:
        raise
    except TypeError as error:
        raise TypeError(f"{who}: {error}") from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
            ValueError) as error:  # whatever constructors make of numbers that they do not expect
        raise ConfigError(f"{who}: config.json describes nothing that can be built ({in_one_line(error)[:500]}); "
                          "write or download it again.") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        odd = sorted(f"{name} {wanted.get(name, 'not in config')} / {found.get(name, 'not in weights')}"
                     for name, _ in wanted.items() ^ found.items())
        raise ValueError(f"{who}: config and weights disagree on {len(set(odd))} tensors: "
                         f"{'; '.join(sorted(set(odd))[:5])}.")
    part.load_state_dict(weights)
    return part.eval()


def read_part_config(file: Path) -> Any:
    """A part's JSON, of plain words only: training that starts from it writes it into a config file, which is code.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no JSON, or has words that would be more than words in a config file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "config.json"
        >>> file.write_text('{"type": "FSQ", "levels": [4]}')
        30
        >>> read_part_config(file)
        {'type': 'FSQ', 'levels': [4]}
    """
    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if odd := [key for key, _ in pairs if repr(key) != f"'{key}'"]:  # how a config file has it
            raise ValueError(f"{odd[0]!r} is the name of no argument")
        return dict(pairs)

    config = json.loads(file.read_text(), object_pairs_hook=named)
    if "{{" in json.dumps(config):
        raise ValueError("it has {{, which stands for something else in a config file")
    return config


def _read_plugins(metadata: Mapping[str, str]) -> dict[str, str]:
    """Distribution -> version, as save_part wrote it; a reader will be told to install them."""
    plugins = json.loads(metadata.get("plugins", "{}"))
    if not isinstance(plugins, dict) or not all(re.fullmatch(r"[\w.+!-]+", str(word)) for pair in plugins.items()
                                                for word in pair):
        raise ValueError(f"plugins are distributions and their versions, got {str(plugins)[:100]!r}")
    return plugins


class _Budget(TorchDispatchMode):
    """Within it no more is made than weights account for, lest a stranger's config take all memory and time.

    What counts are tensors that are made from a size, before they are made.
    """

    _spare, _per_tensor = 2**26, 2**14  # numbers that no file holds, such as tables; and a tensor's share in objects

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        self._left = self._spare + 2 * sum(tensor.numel() + self._per_tensor for tensor in weights.values())

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        size = next((arg for arg in args if isinstance(arg, list | tuple)
                     and all(isinstance(side, int) for side in arg)), None)
        if size is not None:
            self._left -= abs(math.prod(size)) + self._per_tensor
            if self._left < 0:
                raise ConfigError("it asks for far more than model.safetensors has")
        return func(*args, **(kwargs or {}))


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
    if not local.exists() and str(path).count("/") == 1 and not str(path).startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            local = Path(snapshot_download(str(path), allow_patterns=["config.json", "model.safetensors"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise FileNotFoundError(f"no tokenizer at {path}: no such directory, and the hub did not give "
                                    f"it ({error}).") from error
    if (local / "config.json").is_file() and (local / "model.safetensors").is_file():
        return local
    raise FileNotFoundError(f"no tokenizer at {path}: it is no directory with config.json and "
                            "model.safetensors (a run writes them to work_dir/tokenizer/) and no hub id.")

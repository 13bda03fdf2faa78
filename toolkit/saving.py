"""A component on disk: config.json and model.safetensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.config import ConfigError
from toolkit.plugins import PluginError, distributions_of, in_one_line
from toolkit.registry import UnknownComponentError


def save_component(component: nn.Module, directory: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` (float32) of a component, from which it can be built again.

    The plugins it needs are in the weights' metadata, ``plugins``: distribution -> version as JSON.

    Example:
        >>> from toolkit.networks import PatchGANDiscriminator
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_component(PatchGANDiscriminator(filters=8), folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['config.json', 'model.safetensors']
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(component.config, indent=2) + "\n")
    weights = {name: tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()
               for name, tensor in component.state_dict().items()}
    plugins = distributions_of(map(type, component.modules()))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors",
              metadata={"format": "pt"} | ({"plugins": json.dumps(plugins)} if plugins else {}))


def load_component(directory: Path, who: str, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The part in a directory; its weights and config must agree."""
    try:
        config = read_component_config(directory / "config.json")
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


def read_component_config(file: Path) -> Any:
    """A part's JSON, of plain words only: training that starts from it writes it into a config file, which is code.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no JSON, or has words that would be more than words in a config file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "config.json"
        >>> file.write_text('{"type": "FSQ", "levels": [4]}')
        30
        >>> read_component_config(file)
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
    """Distribution -> version, as save_component wrote it; a reader will be told to install them."""
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

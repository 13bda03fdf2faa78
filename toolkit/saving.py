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
from toolkit.registry import ALL, UnknownComponentError


def save_component(component: nn.Module, directory: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` (float32) of a component, from which it can be built again.

    The plugins it needs are in the weights' metadata, ``plugins``: distribution -> version as JSON.
    """
    _check_types(component)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(component.config, indent=2) + "\n")
    weights = {name: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
               for name, tensor in component.state_dict().items()}
    plugins = distributions_of(map(type, component.modules()))
    save_file(weights, directory / "model.safetensors",
              metadata={"format": "pt"} | ({"plugins": json.dumps(plugins)} if plugins else {}))


def _check_types(component: nn.Module) -> None:
    """Refuse a class that would be loaded as another, registered class of the same name."""
    for child in component.modules():
        for registry in ALL:
            if not isinstance(child, registry.contracts) or (name := child.config["type"]) not in registry:
                continue
            if (registered := registry.get(name)) is not type(child):
                raise TypeError(f"{registry.name} {name!r} cannot be saved: it would load as {registered}, got "
                                f"{type(child)}; give the class another name and register it.")


def load_component(directory: Path, who: str, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The component in a directory; its weights and config must agree."""
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
            component = build(config)
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
            ValueError) as error:  # a constructor given a damaged config may raise any of them
        raise ConfigError(f"{who}: config.json cannot be built ({in_one_line(error)[:500]}); "
                          "write or download it again.") from error
    expected = {name: tuple(tensor.shape) for name, tensor in component.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if mismatched := sorted({name for name, _ in expected.items() ^ shapes.items()}):
        shown = [f"{name} {expected.get(name, 'not in config')} / {shapes.get(name, 'not in weights')}"
                 for name in mismatched[:5]]
        raise ValueError(f"{who}: config and weights disagree on {len(mismatched)} tensors: {'; '.join(shown)}.")
    component.load_state_dict(weights)
    return component.eval()


def read_component_config(file: Path) -> Any:
    """A component's JSON; a ValueError if text in it would be code in a config file, where training writes it."""
    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if invalid := [key for key, _ in pairs if repr(key) != f"'{key}'"]:  # as a config file writes it
            raise ValueError(f"{invalid[0]!r} is the name of no argument")
        return dict(pairs)

    config = json.loads(file.read_text(), object_pairs_hook=named)
    if "{{" in json.dumps(config):
        raise ValueError("it has {{, which is a template in a config file")
    return config


def _read_plugins(metadata: Mapping[str, str]) -> dict[str, str]:
    """Distribution -> version, as save_component wrote it, for the message that says what to install."""
    plugins = json.loads(metadata.get("plugins", "{}"))
    if not isinstance(plugins, dict) or not all(re.fullmatch(r"[\w.+!-]+", str(word)) for pair in plugins.items()
                                                for word in pair):
        raise ValueError(f"plugins are distributions and their versions, got {str(plugins)[:100]!r}")
    return plugins


class _Budget(TorchDispatchMode):
    """Limits the tensors made within by the size of the weights: a third-party config must not fill the memory.

    A tensor that is made from a size counts before it is made.
    """

    _spare, _per_tensor = 2**26, 2**14  # numbers for tables that are not saved; and for the objects of each tensor

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
    """The folder of a tokenizer: a local folder, a file in it, or a download of a hub id such as ``"user/name"``."""
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

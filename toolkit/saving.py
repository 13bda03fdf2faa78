"""A component on disk: config.json and model.safetensors."""

from __future__ import annotations

import glob
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import toolkit
from toolkit.config import ConfigError
from toolkit.contracts import Quantizer
from toolkit.plugins import PluginError, distributions_of, in_one_line
from toolkit.registry import ALL, UnknownComponentError
from toolkit.shipped import folder_of, shipped_tokenizers, shipped_tokenizers_in_words


def save_component(component: nn.Module, directory: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a component, from which it can be built again.

    Float tensors are written in ``dtype``, those of quantizers in float32. The plugins that the component needs are in
    the weights' metadata, ``plugins``: distribution -> version as JSON.
    """
    _check_types(component)
    weights = _weights(component, dtype)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(component.config, indent=2) + "\n")
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


def _weights(component: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state dict as it is stored; a ValueError names the tensors with values beyond the range of ``dtype``."""
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"{type(component).__name__} is saved in torch.float32 or torch.float16, got {dtype!r}; give "
                         "one of them.")
    # Rounding could make two codes of a codebook equal. EMA counts may exceed float16's range, or become 0.
    quantizers = tuple(f"{name}." if name else "" for name, module in component.named_modules()
                       if isinstance(module, Quantizer))
    weights, too_large = {}, []
    for name, tensor in component.state_dict().items():
        if tensor.is_floating_point():
            exact = tensor.float()
            tensor = exact if name.startswith(quantizers) else exact.to(dtype)
            if not torch.equal(tensor.isfinite(), exact.isfinite()):
                too_large.append(f"{name} (up to {exact.abs().max():.6g})")
        weights[name] = tensor.detach().cpu().contiguous()
    if too_large:
        raise ValueError(f"{type(component).__name__} cannot be saved in {dtype}, which ends at "
                         f"{torch.finfo(dtype).max:.6g}: got larger values in {', '.join(too_large[:5])}; save it in "
                         "torch.float32.")
    return weights


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
    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # a config file writes a key in quotes, so one that needs escapes could end the text and begin code
        if invalid := [key for key, _ in pairs if repr(key) != f"'{key}'"]:
            raise ValueError(f"{invalid[0]!r} is the name of no argument")
        return dict(pairs)

    config = json.loads(file.read_text(), object_pairs_hook=checked)
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
    """Limits the size of the tensors that a config makes by that of its weights, so that it cannot fill the memory.

    A tensor that is made from a size counts before it is made.
    """

    _spare = 2**26  # numbers, for tables that are not saved
    _per_tensor = 2**14  # numbers, for a tensor's Python objects

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


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer was loaded from.

    Attributes:
        directory: The local folder of its two files; a folder of the hub's cache for a hub id.
        repo: The hub id; None for a local folder.
        revision: The branch, tag or commit that was asked for; None: the default branch.
        subfolder: The folder within the repository; None: its top.
        commit: Hash of the commit that was loaded.
        shipped: Its name if it is shipped with this package; else None.

    Example:
        >>> TokenizerSource(Path("cache/0a1b"), repo="user/name", commit="0a1b").metadata
        {'repo': 'user/name', 'revision': None, 'subfolder': None, 'commit': '0a1b'}
    """

    directory: Path
    repo: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    commit: str | None = None
    shipped: str | None = None

    @property
    def metadata(self) -> dict[str, str | None] | None:
        """What runs, results and token sets record of a hub id or of a shipped tokenizer; None for a local folder."""
        if self.shipped is not None:
            return {"shipped": self.shipped, "toolkit": toolkit.__version__}
        if self.repo is None:
            return None
        return {"repo": self.repo, "revision": self.revision, "subfolder": self.subfolder, "commit": self.commit}


def find_tokenizer(path: str | Path, *, revision: str | None = None, subfolder: str | None = None,
                   token: str | bool | None = None) -> TokenizerSource:
    """The files of a tokenizer; arguments and errors are :func:`toolkit.load_tokenizer`'s. A hub id is downloaded.

    Example:
        >>> find_tokenizer("user/name@main")
        Traceback (most recent call last):
        FileNotFoundError: no tokenizer at user/name@main: it is ...; a revision is given as revision='main' ...
    """
    local, folder = Path(os.path.expanduser(path)), PurePosixPath(subfolder or ".")
    is_name = isinstance(path, str) and "/" not in path  # a Path is a folder
    if folder.is_absolute() or ".." in folder.parts:
        raise ValueError(f"the subfolder of a tokenizer is a folder below {path}, got {subfolder!r}; name one, such as "
                         "'tokenizer'.")
    if revision is not None and not revision:
        raise ValueError(f"the revision of {path} is a branch, a tag or a commit, got ''; name one or leave it out.")
    if is_name and path in shipped_tokenizers():
        _check_shipped(path, dict(revision=revision, subfolder=subfolder or None, token=token))
        return TokenizerSource(folder_of(path), shipped=path)
    local = local.parent if local.is_file() else local
    is_hub_id = not local.exists() and str(path).count("/") == 1 and not str(path).startswith((".", "/", "~"))
    if is_hub_id and "@" not in str(path):
        return _download(str(path), revision=revision, folder=folder, token=token)
    if local.exists() and (revision is not None or token is not None):
        raise ValueError(f"{path} is a local folder, and only a tokenizer of the hub has a revision or needs a token; "
                         "leave them out, or work in another folder if the hub's is meant.")
    if _has_tokenizer(local / folder):
        return TokenizerSource(local / folder)
    raise FileNotFoundError(f"no tokenizer at {Path(path) / folder if subfolder else path}: it is no directory with "
                            "config.json and model.safetensors (a run writes them to work_dir/tokenizer/) and no hub "
                            f"id (USER/NAME){shipped_tokenizers_in_words(path) if is_name else ''}"
                            f"{'' if local.exists() else _hints(str(path))}.")


def _check_shipped(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError if the name of a shipped tokenizer may also mean a folder, or has options of a hub id."""
    if os.path.lexists(name):
        raise ValueError(f"{name} could mean two tokenizers: {name}, which is shipped with the package, and ./{name} "
                         f"in the working directory; write ./{name}, or work in another folder for the shipped one.")
    if given := [option for option, value in options.items() if value is not None]:
        raise ValueError(f"{name} is shipped with the package, and has no revision or subfolder and needs no token, "
                         f"got {', '.join(given)}; leave them out.")


def _has_tokenizer(directory: Path) -> bool:
    return (directory / "config.json").is_file() and (directory / "model.safetensors").is_file()


def _hints(path: str) -> str:
    """How to pass the revision or subfolder that a hub id has after an @ or a second slash."""
    if "://" in path:
        return "; a hub id is given without the address before it"
    path, _, revision = path.partition("@")
    parts = path.split("/") if not path.startswith((".", "/", "~")) else []
    hints = [("revision", revision), ("subfolder", "/".join(parts[2:]))]
    return "".join(f"; a {name} is given as {name}={value!r} (--{name} {value}, training.init_{name}={value})"
                   for name, value in hints if value)


def _download(repo: str, *, revision: str | None, folder: PurePosixPath, token: str | bool | None) -> TokenizerSource:
    """The two files of a folder of a hub repository, and no others; a FileNotFoundError says what is missing."""
    from huggingface_hub import errors, snapshot_download

    at = f" at revision {revision!r}" if revision else ""
    patterns = [glob.escape(str(folder / name)) for name in ("config.json", "model.safetensors")]
    try:
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, token=token))
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError,
            errors.LocalTokenNotFoundError) as error:
        problem = "no such directory, and the hub did not give it"
        if isinstance(error, errors.GatedRepoError):
            problem = f"it is gated; accept its terms at https://huggingface.co/{repo}, then hf auth login, or token="
        elif isinstance(error, errors.RepositoryNotFoundError):
            problem = ("no such directory, and the hub has no such repository, or a private one; correct the id, or "
                       "hf auth login, or token=")
        elif isinstance(error, errors.RevisionNotFoundError):
            problem = "the repository has no such revision; name a branch, a tag or a whole commit hash of it"
        raise FileNotFoundError(f"no tokenizer at {repo}{at}: {problem} ({in_one_line(error)}).") from error
    commit = snapshot.name if snapshot.parent.name == "snapshots" else None
    if not _has_tokenizer(snapshot / folder):
        where = "its top folder; a subfolder is given as subfolder=" if folder == PurePosixPath(".") else (
            f"its subfolder {str(folder)!r}; name another subfolder")
        raise FileNotFoundError(f"no tokenizer at {repo}{at}: commit {commit} has no config.json and model.safetensors "
                                f"in {where}, or, if the hub is offline, download them once.")
    return TokenizerSource(snapshot / folder, repo=repo, revision=revision,
                           subfolder=None if folder == PurePosixPath(".") else str(folder), commit=commit)

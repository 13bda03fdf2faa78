"""Reading configs: mmengine's text configs with a closed list of top-level keys."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

TOP_LEVEL = ("tokenizer", "discriminator", "objective", "data", "training", "metrics", "seed")


class ConfigError(ValueError):
    """A config with an unknown key, a wrong value or a wrong form."""


def check_keys(section: str, config: Any, known: Sequence[str], *, required: Iterable[str] = ()) -> None:
    """Raise a ConfigError unless ``config`` is a dict that has all ``required`` keys and only ``known`` keys."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"{section} is dict({', '.join(f'{key}=...' for key in known)}), got {config!r}.")
    unknown = []
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            unknown.append(f"{key!r} (did you mean {near[0]!r}?)" if near else repr(key))
    if unknown:
        raise ConfigError(f"{section} has no key {', '.join(unknown)}; it takes {', '.join(known)}.")
    if missing := [key for key in required if key not in config]:
        raise ConfigError(f"{section} needs {' and '.join(missing)}, got {', '.join(config) or 'no key'}; its keys are "
                          f"{', '.join(known)}.")


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file (``.py`` with ``_base_``, or YAML or JSON with the same keys).

    Reading a config executes code, also from YAML (tags) and JSON (``_base_``). Read only configs that you trust.

    Args:
        path: The file.
        overrides: Dotted keys and values set on top, as from ``--cfg-options``.

    Raises:
        ConfigError: If the file is missing or unreadable, an override does not fit, a top-level key is not in
            ``TOP_LEVEL``, or a section is not a dict.

    Example:
        >>> load_config("configs/magvit2_video.py", {"training.max_steps": 1}).training.max_steps
        1
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.*")], n=3)
        raise ConfigError(f"config file {path} does not exist" + (f"; did you mean {' or '.join(near)}?" if near
                                                                  else f" (in {path.parent.resolve()})."))
    if overrides:
        check_keys("--cfg-options", dict.fromkeys(key.split(".")[0] for key in overrides), TOP_LEVEL)
    try:
        config = Config.fromfile(path, lazy_import=False, import_custom_modules=False)
    except Exception as error:  # a config is code and may raise anything
        raise ConfigError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    try:
        config.merge_from_dict(dict(overrides or {}))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"--cfg-options {' '.join(overrides)} do not fit config {path}: {error}") from error
    check_keys(f"config {path}", dict(config), TOP_LEVEL)
    for section in ("tokenizer", "objective", "data", "training"):
        if section in config and not isinstance(config[section], Mapping):
            raise ConfigError(f"config section {section} is a dict of settings, got {config[section]!r}.")
    return config


def parse_overrides(options: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words of a command line as a mapping from key to parsed value.

    Raises:
        ConfigError: If a word has no ``=``.

    Example:
        >>> parse_overrides(["training.max_steps=10", "data.train.dataset.path=/my clips", "training.ema_decay=none"])
        {'training.max_steps': 10, 'data.train.dataset.path': '/my clips', 'training.ema_decay': None}
    """
    overrides = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--cfg-options takes KEY=VALUE words, got {option!r}.")
        overrides[key] = _value(text)
    return overrides


def _value(text: str) -> Any:
    """Parse a Python literal, true/false/none/null, or a list of unquoted items; other text stays a string."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        if text.startswith("[") and text.endswith("]") and "[" not in text[1:]:
            return [_value(item.strip()) for item in text[1:-1].split(",")]
        return {"true": True, "false": False, "none": None, "null": None}.get(text, text)

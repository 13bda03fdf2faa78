"""Reading configs: mmengine's text configs with a closed list of top-level keys."""

from __future__ import annotations

import ast
import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

TOP_LEVEL = ("tokenizer", "discriminator", "objective", "data", "training", "metrics", "seed")
# always text, even digits: a folder may be called 2024
TEXT_KEYS = ("path", "index_dir", "init_from", "init_revision", "init_subfolder")
BRACKETS = {"[": "]", "(": ")", "{": "}"}
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


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


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None, *,
                options: Sequence[str] = ()) -> Config:
    """Read a config file (``.py`` with ``_base_``, or YAML or JSON with the same keys).

    Reading a config executes code, also from YAML (tags) and JSON (``_base_``). Read only configs that you trust.

    Args:
        path: The file.
        overrides: Dotted keys and values set on top.
        options: ``KEY=VALUE`` words of ``--cfg-options``, see :func:`parse_overrides`; ``overrides`` come after them.

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
    # keys are checked before the config is run; values are parsed below, when the types of its settings are known
    if keys := [*parse_overrides(options), *(overrides or {})]:
        check_keys("--cfg-options", dict.fromkeys(key.split(".")[0] for key in keys), TOP_LEVEL)
    try:
        config = Config.fromfile(path, lazy_import=False, import_custom_modules=False)
    except Exception as error:  # a config is code and may raise anything
        raise ConfigError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    overrides = parse_overrides(options, dict(config)) | dict(overrides or {})
    try:
        config.merge_from_dict(overrides)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"--cfg-options {' '.join(overrides)} do not fit config {path}: {error}") from error
    check_keys(f"config {path}", dict(config), TOP_LEVEL)
    for section in ("tokenizer", "objective", "data", "training"):
        if section in config and not isinstance(config[section], Mapping):
            raise ConfigError(f"config section {section} is a dict of settings, got {config[section]!r}.")
    return config


def parse_overrides(options: Sequence[str], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``KEY=VALUE`` words of a command line as a mapping from key to parsed value, as mmengine's ``DictAction``.

    A value is a number, true, false, none or null, a list ``a,b`` or ``[a,b]``, a tuple ``(a,b)``, or a dict in
    Python's syntax. Lists and tuples may be nested. Anything else is text. Differences from ``DictAction``:

    - Quotes make text: ``'1'``, ``'a,b'``. Quotes around a whole list are ignored.
    - Spaces within text stay, and braces such as ``{a,b}.mp4`` hold commas together.
    - ``007`` is text. So is every number where the key ends in one of ``TEXT_KEYS``, or the setting in ``config`` is
      text.

    Raises:
        ConfigError: If a word has no ``=``, or its brackets or quotes do not match.

    Example:
        >>> parse_overrides(["training.max_steps=10", "data.train.dataset.path=/my clips", "training.ema_decay=none"])
        {'training.max_steps': 10, 'data.train.dataset.path': '/my clips', 'training.ema_decay': None}
        >>> parse_overrides(["data.train.dataset.path=[a.mp4,2024]", "training.quantization=[(0,0),(9,1.0)]"])
        {'data.train.dataset.path': ['a.mp4', '2024'], 'training.quantization': [(0, 0), (9, 1.0)]}
    """
    overrides = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"--cfg-options takes KEY=VALUE words, got {option!r}.")
        try:
            overrides[key] = _value(text, numbers=not _is_text(key, config))
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"--cfg-options takes KEY=VALUE words with matching brackets and quotes, got {option!r} "
                              f"({error}); quote text, KEY=\"'TEXT'\", and a word with spaces.") from error
    return overrides


def _is_text(key: str, config: Any) -> bool:
    """Whether a setting is text: by its name, or because its current value is text or a list of texts."""
    names, setting = key.split("."), config
    for name in names:
        if isinstance(setting, Mapping):
            setting = setting.get(name)
        else:
            setting = setting[int(name)] if _is_position(name, setting) else None
    values = setting if isinstance(setting, list | tuple) and setting else [setting]
    return names[-1] in TEXT_KEYS or all(isinstance(value, str) for value in values)


def _is_position(name: str, items: Any) -> bool:
    return isinstance(items, list) and name.isdecimal() and int(name) < len(items)


def _value(text: str, *, numbers: bool) -> Any:
    """The value of a word, in which numbers stay text unless ``numbers``.

    A ValueError is raised if brackets or quotes do not match.
    """
    text = text.strip()
    if QUOTED.fullmatch(text):
        inner = ast.literal_eval(text)
        if not _is_bracketed(inner):
            return inner
        text = inner
    return _items(text, numbers=numbers)


def _is_bracketed(text: str) -> bool:
    return text.startswith(("[", "(")) and text.endswith(BRACKETS[text[0]])


def _items(text: str, *, numbers: bool) -> Any:
    """A list or tuple where the text is one, else the value of a single item."""
    if not text.startswith(tuple(BRACKETS)) and "," not in text:
        return _item(text, numbers=numbers)
    items, kind = _split(text), list
    if len(items) == 1:
        if not _is_bracketed(text):
            return _item(text, numbers=numbers)
        try:
            items = _split(text[1:-1])
        except ValueError:  # [0-9][0-9], a pattern
            return text
        kind = tuple if text[0] == "(" else list
    if not items[-1].strip():  # after the last comma, or an empty list
        items.pop()
    return kind(_items(item.strip(), numbers=numbers) for item in items)


def _split(text: str) -> list[str]:
    """The items between the commas that are in no brackets and no quotes."""
    items, start, position, closing = [], 0, 0, []
    while position < len(text):
        char = text[position]
        if char in "'\"" and text[:position].rstrip()[-1:] in ("", *",:[({"):  # not within a word, as in it's
            if not (quoted := QUOTED.match(text, position)):
                raise ValueError(f"no closing {char}")
            position = quoted.end()
            continue
        if char in BRACKETS:
            closing.append(BRACKETS[char])
        elif char in BRACKETS.values() and (not closing or closing.pop() != char):
            raise ValueError(f"no opening bracket for {char}")
        elif char == "," and not closing:
            items.append(text[start:position])
            start = position + 1
        position += 1
    if closing:
        raise ValueError(f"no closing {closing[-1]}")
    return [*items, text[start:]]


def _item(text: str, *, numbers: bool) -> Any:
    """The value of an item that is no list."""
    if QUOTED.fullmatch(text):
        return ast.literal_eval(text)
    if text.startswith("{"):
        with contextlib.suppress(SyntaxError, TypeError, ValueError):  # {000..127}.tar, a pattern
            literal = ast.literal_eval(text)
            return literal if isinstance(literal, dict) else text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text in ("None", "none", "null"):
        return None
    if numbers and not re.match(r"[+-]?0\d", text):
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(text)
    return text

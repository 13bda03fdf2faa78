"""Plugins, read from the entry points of installed distributions; reading imports nothing of them.

An entry point in the group of a kind adds a component to it; its name is the config ``type``::

    [project.entry-points."toolkit.quantizers"]
    SimVQ = "toolkit_simvq:SimVQ"
"""

from __future__ import annotations

import configparser
import difflib
import inspect
import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from importlib.metadata import PathDistribution
from pathlib import Path

from entrypoints import BadEntryPoint, CaseSensitiveConfigParser, EntryPoint
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import toolkit

logger = logging.getLogger(__name__)
TOOLKIT = "visual-tokenizer-toolkit"
GROUPS = {  # kind of component -> entry-point group
    "encoder": "toolkit.encoders", "decoder": "toolkit.decoders", "quantizer": "toolkit.quantizers",
    "discriminator": "toolkit.discriminators", "loss": "toolkit.losses", "metric": "toolkit.metrics",
    "dataset": "toolkit.datasets", "checkpoint family": "toolkit.checkpoints", "baseline": "toolkit.baselines"}


@dataclass(frozen=True)
class PluginEntry:
    """An entry point: one component of an installed distribution.

    Attributes:
        group, name: The entry-point group, such as ``"toolkit.quantizers"``, and the config ``type``.
        entry: Where the class is.
        distribution, version, summary: Of the distribution; the name is normalised as PEP 503 says.
        requires: Its own requirements, as in ``Requires-Dist``.
        allowed: Whether ``TOOLKIT_PLUGINS`` allows it.
    """

    group: str
    name: str
    entry: EntryPoint = field(compare=False)
    distribution: str
    version: str
    summary: str = ""
    requires: tuple[str, ...] = ()
    allowed: bool = True

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class PluginError(RuntimeError):
    """A component of a plugin cannot be used; every other name is unaffected.

    Args:
        message, cure: Who needed what and got what; what to do.
        entries: Those that fail; ``distribution`` and ``version`` are theirs.
        status: ``"incompatible"`` if it wants another version of this package, ``"clash"`` if its name is not
            its own, else ``"failed"``.

    Example:
        >>> print(PluginError("loss 'Mine' of toolkit-mine 0.1 fails", cure="reinstall it"))
        loss 'Mine' of toolkit-mine 0.1 fails; reinstall it.
    """

    def __init__(self, message: str, *, entries: tuple[PluginEntry, ...] = (), cure: str = "", status: str = "failed"):
        super().__init__(message)
        self.entries, self.cure, self.status = entries, cure, status
        self.distribution = " and ".join(plugin.distribution for plugin in entries)
        self.version = " and ".join(plugin.version for plugin in entries)

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.cure}."


_LOADED: set[tuple[type, PluginEntry]] = set()  # every class that load() imported
warn_once = cache(logger.warning)  # log a message, the first time only


def plugin_entries(group: str | None, *, allowed: bool = True) -> list[PluginEntry]:
    """The entry points in a group that the environment variable ``TOOLKIT_PLUGINS`` allows, or those it does not.

    Unset allows all, ``""`` none, ``"a,b"`` those distributions.
    """
    return [plugin for plugin in _all_entries() if plugin.group == group and plugin.allowed is allowed]


def load(plugin: PluginEntry, *, kind: str, contracts: tuple[type, ...]) -> type:
    """Import a plugin's class, after a check of the toolkit versions that it requires."""
    who = f"{kind} {plugin.name!r} of {plugin}"
    failure = partial(PluginError, entries=(plugin,),
                      cure=f"pip install --upgrade {plugin.distribution}, or tell its author")
    _check_version(plugin, who, failure)
    try:
        cls = plugin.entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # third-party code: sys.exit() too is its own failure
        target = ":".join(filter(None, (plugin.entry.module_name, plugin.entry.object_name)))
        raise failure(f"{who}: importing {target} failed ({in_one_line(error)})") from error
    if not _is_plugin_class(cls) or not issubclass(cls, contracts):
        expected = " or ".join(contract.__name__ for contract in contracts)
        # A class of this package under a second name would change the type in saved configs.
        raise failure(f"{who} must be its own subclass of {expected}, got {cls!r}")
    if inspect.isabstract(cls):
        raise failure(f"{who} lacks {', '.join(sorted(cls.__abstractmethods__))} of its contract")
    _LOADED.add((cls, plugin))
    return cls


def in_one_line(error: BaseException) -> str:
    """A third-party exception as text, even if its ``__str__`` fails."""
    try:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def distributions_of(classes: Iterable[type]) -> dict[str, str]:
    """Plugin distribution -> version of those that define the classes or their bases, sorted."""
    defined = list(_LOADED)
    for plugin in _all_entries():
        cls = sys.modules.get(plugin.entry.module_name)  # a class that exists has been imported
        for attribute in (plugin.entry.object_name or "").split("."):
            cls = inspect.getattr_static(cls, attribute, None)  # runs nothing of the plugin's
        if _is_plugin_class(cls):
            defined.append((cls, plugin))
    bases = {base for cls in classes for base in cls.__mro__}
    return dict(sorted((plugin.distribution, plugin.version) for cls, plugin in defined if cls in bases))


def _is_plugin_class(value: object) -> bool:
    from toolkit.contracts import Component  # which imports torch; listing plugins needs none

    return (inspect.isclass(value) and issubclass(value, Component)
            and str(value.__module__).partition(".")[0] != "toolkit")


def _check_version(plugin: PluginEntry, who: str, failure: partial[PluginError]) -> None:
    for line in plugin.requires:
        if canonicalize_name(re.match(r"[\w.-]*", line.strip())[0]) != TOOLKIT:
            continue  # pip checks the other requirements
        try:
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        except ValueError as error:  # raised by packaging
            raise failure(f"{who}: its requirement {line!r} cannot be read", status="incompatible") from error
        if applies and not requirement.specifier.contains(toolkit.__version__, prereleases=True):
            raise failure(f"{who} needs {TOOLKIT}{requirement.specifier}, got {toolkit.__version__}",
                          cure=f"pip install versions of {plugin.distribution} and {TOOLKIT} that fit each other",
                          status="incompatible")


def _all_entries() -> tuple[PluginEntry, ...]:
    places = {os.path.abspath(place): None for place in sys.path if isinstance(place, str)}
    return _read(tuple((place, os.stat(place).st_mtime_ns) for place in places if os.path.isdir(place)),
                 os.environ.get("TOOLKIT_PLUGINS"))


@lru_cache(maxsize=8)  # installing changes a folder of sys.path
def _read(places: tuple[tuple[str, int], ...], setting: str | None) -> tuple[PluginEntry, ...]:
    """The entry points in folders, given with the time of their last change."""
    folders: dict[str, Path] = {}  # of several distributions with one name the first is imported
    for place, _ in places:
        # pip leaves folders that begin with ~, or without metadata, behind.
        for folder in sorted([*Path(place).glob("[!~]*.dist-info"), *Path(place).glob("[!~]*.egg-info")]):
            if name := _name_of(folder):
                folders.setdefault(name, folder)
    allowed = None if setting is None else {canonicalize_name(name.strip()) for name in setting.split(",")} - {""}
    for name in sorted((allowed or set()) - folders.keys()):
        warn_once(f"TOOLKIT_PLUGINS names {name}, which is not installed; pip install it, or take it out (commas "
                  "separate names).")
    return tuple(plugin for name, folder in folders.items()
                 for plugin in _read_folder(folder, name, allowed is None or name in allowed))


def _name_of(folder: Path) -> str | None:
    """A distribution's normalised name, from its metadata's first lines; None if it has none."""
    for file in ("METADATA", "PKG-INFO"):
        if (folder / file).is_file():
            with (folder / file).open(encoding="utf-8", errors="replace") as lines:
                line = next((line for line in lines if line.lower().startswith("name:")), "")
            return canonicalize_name(line.partition(":")[2].strip() or folder.stem.split("-")[0])
    return None


def _read_folder(folder: Path, name: str, allowed: bool) -> list[PluginEntry]:
    file, config = folder / "entry_points.txt", CaseSensitiveConfigParser(delimiters=("=",))
    if not file.is_file():
        return []
    try:
        config.read_string(file.read_text(encoding="utf-8"), source=str(file))
        specs = [(group, key, spec) for group in config.sections() if group.startswith("toolkit.")
                 for key, spec in config.items(group, raw=True)]
        if not specs:
            return []
        about, requires = PathDistribution(folder).metadata, tuple(PathDistribution(folder).requires or ())
    except (configparser.Error, OSError, ValueError) as error:  # ValueError: no UTF-8
        warn_once(f"{folder}: its entry points cannot be read and are skipped ({' '.join(str(error).split())}); "
                  f"reinstall {name}, or tell its author.")
        return []
    for group in {group for group, _, _ in specs} - set(GROUPS.values()):
        near = difflib.get_close_matches(group, GROUPS.values(), n=1) or GROUPS.values()
        warn_once(f"{file}: no kind of component has the group {group!r}; did its author mean {' or '.join(near)}?")
    entries = []
    for group, key, spec in specs:
        try:
            entry = EntryPoint.from_string(spec, key)
        except BadEntryPoint as error:
            warn_once(f"{file}: {key} = {spec} is skipped ({error}); tell the author of {name}.")
            continue
        entries.append(PluginEntry(group, key, entry, name, about.get("Version") or "(no version)",
                                   (about.get("Summary") or "").partition("\n")[0], requires, allowed))
    return entries

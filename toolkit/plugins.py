"""What installed plugins offer, read from their entry points; nothing of a plugin is imported by reading.

A distribution offers a part through an entry point in the group of its kind, whose name is the config ``type``::

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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import PathDistribution
from pathlib import Path

from entrypoints import BadEntryPoint, CaseSensitiveConfigParser, EntryPoint
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import toolkit

logger = logging.getLogger(__name__)
TOOLKIT = "visual-tokenizer-toolkit"
GROUPS = tuple(f"toolkit.{kind}" for kind in ("encoders", "decoders", "quantizers", "discriminators", "losses",
                                              "metrics", "datasets", "checkpoints", "baselines"))
_NAME = re.compile(r"[\w.-]*")  # with which a requirement begins
Places = tuple[tuple[str, int], ...]  # folders of sys.path, and when each last got or lost an entry


@dataclass(frozen=True)
class PluginEntry:
    """One part that an installed distribution offers.

    Attributes:
        group: The entry-point group, such as ``"toolkit.quantizers"``.
        name: The config ``type``.
        entry: Where the class is.
        distribution: Its name, normalised as PEP 503 says.
        version: Of the distribution.
        summary: Its first line about itself.
        requires: Its own requirements, as in ``Requires-Dist``.
        allowed: Whether ``TOOLKIT_PLUGINS`` lets it in.

    Example:
        >>> print(PluginEntry("toolkit.losses", "Mine", EntryPoint("Mine", "mine", "Mine"), "toolkit-mine", "0.1"))
        toolkit-mine 0.1
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
    """A part that a plugin offers cannot be used; every other name is untouched.

    Args:
        fault: Who needed what and got what.
        offers: Those at fault, whose ``distribution`` and ``version`` it has too.
        cure: What to do.
        status: ``"incompatible"`` if it wants another version of this package, ``"clash"`` if its name is not
            its own, else ``"failed"``.

    Example:
        >>> print(PluginError("loss 'Mine' of toolkit-mine 0.1 fails", cure="reinstall it"))
        loss 'Mine' of toolkit-mine 0.1 fails; reinstall it.
    """

    def __init__(self, fault: str, *, entries: tuple[PluginEntry, ...] = (), cure: str = "", status: str = "failed"):
        super().__init__(fault)
        self.entries, self.cure, self.status = entries, cure, status
        self.distribution = " and ".join(offer.distribution for offer in entries)
        self.version = " and ".join(offer.version for offer in entries)

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.cure}."


_LOADED: set[tuple[type, PluginEntry]] = set()  # what came through load(), wherever the class's module is


@cache
def warn_once(message: str) -> None:
    """Log a warning, the first time only.

    Example:
        >>> warn_once("toolkit-mine is odd")
    """
    logger.warning("%s", message)


def plugin_entries(group: str | None, *, allowed: bool = True) -> list[PluginEntry]:
    """What installed distributions offer in a group.

    Args:
        group: Such as ``"toolkit.quantizers"``; nothing is offered to None.
        allowed: Those that the environment variable ``TOOLKIT_PLUGINS`` lets in (unset: all; ``""``: none;
            ``"a,b"``: those distributions), or those that it leaves out.

    Example:
        >>> plugin_entries("toolkit.no_such_kind")
        []
    """
    return [offer for offer in _all_entries() if offer.group == group and offer.allowed is allowed]


def load(offer: PluginEntry, *, kind: str, contracts: tuple[type, ...]) -> type:
    """Import the class that an offer stands for, after a look at the versions it needs.

    Args:
        offer: From :func:`offers`.
        kind: What the part is called in messages, such as ``"quantizer"``.
        contracts: The classes of which it must be a subclass of one.

    Raises:
        PluginError: If it wants another version of this package, fails to import, or breaks its contract.

    Example:
        >>> from toolkit.contracts import Component
        >>> entry = EntryPoint("Mine", "no_such_module", "Mine")
        >>> load(PluginEntry("toolkit.losses", "Mine", entry, "toolkit-mine", "0.1"), kind="loss",
        ...      contracts=(Component,))
        Traceback (most recent call last):
        PluginError: loss 'Mine' of toolkit-mine 0.1: importing no_such_module:Mine failed ...
    """
    who, repair = f"{kind} {offer.name!r} of {offer}", f"pip install --upgrade {offer.distribution}, or tell its author"
    _check_version(offer, who, repair)
    try:
        found = offer.entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's module does, sys.exit() included, is its own failure
        target = ":".join(filter(None, (offer.entry.module_name, offer.entry.object_name)))
        raise PluginError(f"{who}: importing {target} failed ({in_one_line(error)})", entries=(offer,),
                          cure=repair) from error
    if not _is_plugin_part(found) or not issubclass(found, contracts):
        wanted = " or ".join(contract.__name__ for contract in contracts)
        # A class of this package under a second name would change the type that saved configs give it.
        raise PluginError(f"{who} must be its own subclass of {wanted}, got {found!r}", entries=(offer,), cure=repair)
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise PluginError(f"{who} lacks {lacking} of its contract", entries=(offer,), cure=repair)
    _LOADED.add((found, offer))
    return found


def in_one_line(error: BaseException) -> str:
    """A stranger's exception as text, whatever it does when asked for it.

    Example:
        >>> in_one_line(ValueError("two\\nlines"))
        'ValueError: two lines'
    """
    try:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def distributions_of(classes: Iterable[type]) -> dict[str, str]:
    """The plugin distributions that made classes, or what these derive from.

    Args:
        classes: Any; those that no plugin offers count for nothing.

    Returns:
        Distribution -> version, sorted.

    Example:
        >>> distributions_of([dict])
        {}
    """
    made = list(_LOADED)
    for offer in _all_entries():
        found = sys.modules.get(offer.entry.module_name)  # a class that exists has been imported
        for attribute in (offer.entry.object_name or "").split("."):
            found = inspect.getattr_static(found, attribute, None)  # runs nothing of the plugin's
        if _is_plugin_part(found):
            made.append((found, offer))
    bases = {base for cls in classes for base in cls.__mro__}
    return dict(sorted((offer.distribution, offer.version) for found, offer in made if found in bases))


def _is_plugin_part(found: object) -> bool:
    from toolkit.contracts import Component  # which imports torch; listing plugins needs none

    return (inspect.isclass(found) and issubclass(found, Component)
            and str(found.__module__).partition(".")[0] != "toolkit")


def _check_version(offer: PluginEntry, who: str, repair: str) -> None:
    for line in offer.requires:
        if canonicalize_name(_NAME.match(line.strip())[0]) != TOOLKIT:
            continue  # what it needs of others is pip's business
        try:
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        except ValueError as error:  # of the packaging library: requirement, marker or version that is none
            raise PluginError(f"{who}: its requirement {line!r} cannot be read", entries=(offer,), cure=repair,
                              status="incompatible") from error
        if applies and not requirement.specifier.contains(toolkit.__version__, prereleases=True):
            raise PluginError(f"{who} needs {TOOLKIT}{requirement.specifier}, got {toolkit.__version__}",
                              entries=(offer,), status="incompatible",
                              cure=f"pip install a version of {offer.distribution} or of {TOOLKIT} that fits the other")


def _all_entries() -> tuple[PluginEntry, ...]:
    places = {os.path.abspath(place): None for place in sys.path if isinstance(place, str)}
    return _read((*((place, os.stat(place).st_mtime_ns) for place in places if os.path.isdir(place)),),
                 os.environ.get("TOOLKIT_PLUGINS"))


@lru_cache(maxsize=8)  # until something is installed, which changes a folder of sys.path
def _read(places: Places, setting: str | None) -> tuple[PluginEntry, ...]:
    folders = dict(_distributions(places))
    wanted = None if setting is None else {canonicalize_name(name.strip()) for name in setting.split(",")} - {""}
    for name in sorted((wanted or set()) - folders.keys()):
        warn_once(f"TOOLKIT_PLUGINS names {name}, which is not installed; pip install it, or take it out (commas "
                  "separate names).")
    return tuple(offer for name, folder in folders.items()
                 for offer in _read_folder(folder, name, wanted is None or name in wanted))


def _distributions(places: Places) -> Iterator[tuple[str, Path]]:
    """The name and the folder of each distribution; the first of a name is the one that imports."""
    seen = set()
    for place, _ in places:
        # One that begins with ~, or has no metadata, is what is left of something uninstalled.
        for folder in sorted([*Path(place).glob("[!~]*.dist-info"), *Path(place).glob("[!~]*.egg-info")]):
            name = _name_of(folder)
            if name is not None and name not in seen:
                seen.add(name)
                yield name, folder


def _name_of(folder: Path) -> str | None:
    """A distribution's normalised name, from its metadata's first lines; None if it has none."""
    for file in ("METADATA", "PKG-INFO"):
        if (folder / file).is_file():
            with (folder / file).open(encoding="utf-8", errors="replace") as lines:
                found = next((line for line in lines if line.lower().startswith("name:")), "")
            return canonicalize_name(found.partition(":")[2].strip() or folder.stem.split("-")[0])
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
        warn_once(f"{folder}: its entry points cannot be read and are left out ({' '.join(str(error).split())}); "
                  f"reinstall {name}, or tell its author.")
        return []
    for group in {group for group, _, _ in specs} - set(GROUPS):
        near = difflib.get_close_matches(group, GROUPS, n=1) or GROUPS
        warn_once(f"{file}: no kind of part has the group {group!r}; did its author mean {' or '.join(near)}?")
    found = []
    for group, key, spec in specs:
        try:
            entry = EntryPoint.from_string(spec, key)
        except BadEntryPoint as error:
            warn_once(f"{file}: {key} = {spec} is left out ({error}); tell the author of {name}.")
            continue
        found.append(PluginEntry(group, key, entry, name, about.get("Version") or "(no version)",
                           (about.get("Summary") or "").partition("\n")[0], requires, allowed))
    return found

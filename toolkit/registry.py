"""The registries, in which every component has a name.

A component registers with a decorator and one import line in its folder's ``__init__``::

    @LOSSES.register_module()
    class L1(Loss): ...

Differences from mmengine's registries: A registered name cannot be replaced. A class must subclass its contract.
Dotted paths do not resolve. One error lists all wrong arguments. A plugin is imported when its component is requested.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry as MMRegistry

from toolkit import contracts
from toolkit.plugins import GROUPS, PluginEntry, PluginError, distributions_of, in_one_line, plugin_entries, warn_once
from toolkit.plugins import load as load_plugin
from toolkit.shipped import description_of, shipped_tokenizers


class UnknownComponentError(LookupError):
    """No component of that kind has that name."""


class Registry(MMRegistry):
    """Components of one kind, by name.

    Args:
        kind: What a component is called in messages, such as ``"quantizer"``.
        contracts: Base classes; a component must be a subclass of one of them.
        location: The package whose import registers the built-in components.

    Example:
        >>> from toolkit.registry import LOSSES
        >>> LOSSES.build(dict(type="L1")).config, "os.getcwd" in LOSSES
        ({'type': 'L1'}, False)
    """

    def __init__(self, kind: str, *, contracts: tuple[type, ...], location: str):
        super().__init__(kind, scope="toolkit", locations=[location])
        self.contracts, self.entry_point_group = contracts, GROUPS.get(kind)

    def _register_module(self, module: type, module_name: str | list[str] | None = None, force: bool = False) -> None:
        names = [module_name] if isinstance(module_name, str) else module_name or [module.__name__]
        for name in names:
            if not (inspect.isclass(module) and issubclass(module, self.contracts)):
                expected = " or ".join(contract.__name__ for contract in self.contracts)
                raise TypeError(f"{self.name} {name!r} must be a subclass of {expected}, got {module!r}.")
            if force:
                raise KeyError(f"{self.name} {name!r}: force=True is not supported; choose an unregistered name.")
            if (registered := self._module_dict.get(name)) is not None:
                raise KeyError(f"{self.name} {name!r} cannot be replaced ({registered!r}); choose another name.")
            self._module_dict[name] = module
        if "type_name" not in vars(module):  # a second name must not change the type in saved configs
            module.type_name = names[0]

    def get(self, key: str) -> type:
        """The class registered as ``key``: a built-in component, or else a plugin's.

        An unknown name raises UnknownComponentError with the nearest names. An unusable plugin raises PluginError.
        """
        self.import_from_location()
        clash = self._clash(key)
        if key in self._module_dict:
            if clash:
                warn_once(str(clash))
            return self._module_dict[key]
        if clash:
            raise clash
        if entries := self._entries(key):
            return self._load(entries[0])
        raise UnknownComponentError(self._unknown(key))

    def __contains__(self, key: str) -> bool:
        self.import_from_location()
        return key in self._module_dict or bool(self._entries(key))

    def _entries(self, name: str, *, allowed: bool = True) -> list[PluginEntry]:
        return [entry for entry in plugin_entries(self.entry_point_group, allowed=allowed) if entry.name == name]

    def _clash(self, name: str) -> PluginError | None:
        """A PluginError if the name has another owner, or None. A registered class keeps its name."""
        cls = self._module_dict.get(name)
        class_distributions = distributions_of([cls]) if cls else {}
        entries = [entry for entry in self._entries(name) if entry.distribution not in class_distributions]
        if len(entries) + bool(cls) < 2:  # at most one owner
            return None
        fault = (f"is also the name of {cls.__module__}.{cls.__qualname__}, which stays" if cls else
                 "has several owners, so none of them is used")
        return PluginError(f"{self.name} {name!r} of {' and of '.join(map(str, entries))} {fault}", status="clash",
                           cure=f"uninstall {' or '.join(entry.distribution for entry in entries)}, or set "
                                "TOOLKIT_PLUGINS to the distributions to use", entries=tuple(entries))

    def _load(self, entry: PluginEntry) -> type:
        """Import a plugin's class and register it by the name of its entry point.

        Other names that its module registers are removed again: only entry points name a plugin's components. Built-in
        names stay: the plugin's import may be their first and only registration.
        """
        before = {registry: set(registry.module_dict) for registry in (*ALL, self)}
        try:
            cls = load_plugin(entry, kind=self.name, contracts=self.contracts)
        finally:
            for registry, names in before.items():
                for name in registry.module_dict.keys() - names:
                    registered = registry.module_dict[name]
                    if registered.__module__.partition(".")[0] != "toolkit" or registered.type_name != name:
                        del registry.module_dict[name]
        self.register_module(name=entry.name, module=cls)
        cls.type_name = entry.name  # overrides a name set by the plugin's own decorator
        return cls

    def _unknown(self, name: str) -> str:
        names = sorted({*self._module_dict, *(entry.name for entry in plugin_entries(self.entry_point_group))})
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        if excluded := self._entries(name, allowed=False):
            cure = (f"It is in {' and '.join(map(str, excluded))}, which TOOLKIT_PLUGINS="
                    f"{os.environ.get('TOOLKIT_PLUGINS')!r} excludes; add {excluded[0].distribution} to it.")
        else:
            cure = ("A type that is not built in comes from a plugin: install its distribution, such "
                    "as `pip install <distribution>`; `python -m toolkit` lists what is installed.")
        return f"no {self.name} is called {name!r}. {hint}There are: {', '.join(names)}. {cure}"

    def listing(self, check: bool = False) -> list[tuple[str, str, str, str]]:
        """Every component, sorted: type, source (a module, or a distribution with its version), state, description.

        Without ``check`` no plugin is imported; a plugin's state is then empty or ``"clash"``. With ``check`` it is
        ``"ok"``, ``"failed"``, ``"incompatible"`` or ``"clash"``. The description of an unusable plugin is the reason.
        """
        self.import_from_location()
        rows, classes = [], dict(self._module_dict)
        for entry in plugin_entries(self.entry_point_group):
            error = self._clash(entry.name)
            if error is None or entry not in error.entries:  # a registered class of this name, if any, is this plugin's
                error = None
                classes.pop(entry.name, None)
            if error is None and check:
                try:
                    self.get(entry.name)
                except PluginError as failure:
                    error = failure
            rows.append((entry.name, str(entry), error.status if error else "ok" if check else "",
                         " ".join(str(error or entry.summary).split())))
        rows += [(name, cls.__module__, "", (cls.__doc__ or "").split("\n")[0]) for name, cls in classes.items()]
        return sorted(rows)

    def build(self, cfg: Mapping[str, Any], **overrides: Any) -> Any:
        """Construct a component from its config; keyword arguments override the config's.

        An unknown type raises UnknownComponentError. An unusable plugin raises PluginError. A missing type raises
        TypeError. Wrong arguments raise one TypeError that lists them.
        """
        if not isinstance(cfg, Mapping) or not isinstance(cfg.get("type"), str):
            raise TypeError(f"a {self.name} is configured as dict(type='Name', ...), got {cfg!r}.")
        arguments = {key: value for key, value in cfg.items() if key != "type"} | overrides
        cls = self.get(cfg["type"])
        self._check_arguments(cls, cfg["type"], arguments)
        try:
            return cls(**arguments)
        except (LookupError, OSError, PluginError, TypeError, ValueError):
            raise  # their messages name the arguments
        except Exception as error:  # a third-party constructor may raise anything
            if not (distributions := distributions_of([cls])):
                raise
            owners = " and ".join(f"{name} {version}" for name, version in distributions.items())
            raise PluginError(f"{self.name} {cfg['type']!r} of {owners} cannot be built ({in_one_line(error)})",
                              cure="correct its arguments, or tell its author") from error

    def _check_arguments(self, cls: type, name: str, arguments: Mapping[str, Any]) -> None:
        known = contracts.constructor_parameters(cls)
        own_parameters = inspect.signature(cls.__init__).parameters  # a subclass may set its parents' arguments itself
        unexpected = [repr(a) for a in arguments if a not in known]
        missing = [repr(p.name) for p in known.values()
                   if p.default is p.empty and p.name in own_parameters and p.name not in arguments]
        if unexpected or missing:
            problems = [f"{problem} {', '.join(names)}"
                        for problem, names in (("unexpected", unexpected), ("missing", missing)) if names]
            raise TypeError(
                f"{self.name} {name!r}: {'; '.join(problems)}; it takes ({', '.join(known)}). If the config "
                f"inherits another type through _base_, write {self.name}=dict(_delete_=True, type=...).")


ENCODERS = Registry("encoder", contracts=(contracts.Encoder,), location="toolkit.networks")
DECODERS = Registry("decoder", contracts=(contracts.Decoder,), location="toolkit.networks")
QUANTIZERS = Registry("quantizer", contracts=(contracts.Quantizer,), location="toolkit.quantizers")
DISCRIMINATORS = Registry("discriminator", contracts=(contracts.Discriminator,), location="toolkit.networks")
LOSSES = Registry("loss", contracts=(contracts.Loss, contracts.AdversarialLoss, contracts.GeneratorWeight),
                  location="toolkit.losses")
METRICS = Registry("metric", contracts=(contracts.Metric,), location="toolkit.metrics")
DATASETS = Registry("dataset", contracts=(contracts.Dataset,), location="toolkit.data")
CHECKPOINTS = Registry("checkpoint family", contracts=(contracts.CheckpointFamily,), location="toolkit.interop")
BASELINES = Registry("baseline", contracts=(contracts.Baseline,), location="toolkit.baselines")

ALL = (ENCODERS, DECODERS, QUANTIZERS, DISCRIMINATORS, LOSSES, METRICS, DATASETS, CHECKPOINTS, BASELINES)


def main(check: bool = False) -> int:
    """List all components and shipped tokenizers; ``check`` also imports the plugins.

    Returns 1 if ``check`` finds an unusable plugin, else 0.
    """
    from rich.console import Console
    from rich.table import Column, Table

    rows = [(registry.name, *row) for registry in ALL for row in registry.listing(check)]
    rows += [("tokenizer", name, "shipped", "", description_of(name)) for name in shipped_tokenizers()]
    columns = ["kind", Column("type", no_wrap=True), Column("source", overflow="fold"), "state", "what it is"]
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)  # plugin texts may contain markup
    return int(check and any(state not in ("", "ok") for *_, state, _ in rows))

"""The seven registries through which every part is found by name.

A part registers with a decorator and one import line in its folder's ``__init__``::

    @LOSSES.register_module()
    class L1(Loss): ...

They are stricter than mmengine's: a name stands for one class for good, the class must keep its
contract, only registered names resolve (never a dotted path), and arguments that do not fit are
all reported at once.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry as MMRegistry

from toolkit import contracts


class UnknownComponentError(LookupError):
    """No part of that kind has that name."""


class Registry(MMRegistry):
    """Parts of one kind, by name.

    Args:
        kind: What a part is called in messages, such as ``"quantizer"``.
        contracts: The classes of which a part must be a subclass of one.
        location: The package whose import registers the built-in parts.

    Example:
        >>> from toolkit.registry import LOSSES
        >>> LOSSES.build(dict(type="L1")).config, "os.getcwd" in LOSSES
        ({'type': 'L1'}, False)
    """

    def __init__(self, kind: str, *, contracts: tuple[type, ...], location: str):
        super().__init__(kind, scope="toolkit", locations=[location])
        self.contracts = contracts

    def _register_module(self, module: type, module_name: str | list[str] | None = None,
                         force: bool = False) -> None:
        names = [module_name] if isinstance(module_name, str) else module_name or [module.__name__]
        for name in names:
            if not (inspect.isclass(module) and issubclass(module, self.contracts)):
                wanted = " or ".join(contract.__name__ for contract in self.contracts)
                raise TypeError(f"{self.name} {name!r} must be a subclass of {wanted}, got {module!r}.")
            taken = self._module_dict.get(name)
            if force or taken is not None:
                raise KeyError(f"{self.name} {name!r} cannot be replaced (registered: {taken!r}); "
                               "choose another name.")
            self._module_dict[name] = module
            module.type_name = names[0]

    def get(self, key: str) -> type:
        """The class registered as ``key``.

        Built-in parts come first. (Offers of installed plugins, DESIGN section 5, belong between
        the two statements below: only a name that no built-in has may reach them.)

        Raises:
            UnknownComponentError: If there is none; the message has the nearest names.
        """
        self.import_from_location()
        if key in self._module_dict:
            return self._module_dict[key]
        near = difflib.get_close_matches(str(key), self._module_dict, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UnknownComponentError(f"no {self.name} is called {key!r}. {hint}"
                                    f"There are: {', '.join(sorted(self._module_dict))}.")

    def __contains__(self, key: str) -> bool:
        self.import_from_location()
        return key in self._module_dict

    def build(self, cfg: Mapping[str, Any], **built: Any) -> Any:
        """Construct a part from its config.

        Args:
            cfg: ``type`` and the constructor's arguments.
            built: Arguments that are objects already.

        Raises:
            UnknownComponentError: If nothing has that ``type``.
            TypeError: If the config is no mapping with a ``type``, or arguments do not fit the
                constructor; the message lists all of them.
        """
        if not isinstance(cfg, Mapping) or not isinstance(cfg.get("type"), str):
            raise TypeError(f"a {self.name} is configured as dict(type='Name', ...), got {cfg!r}.")
        arguments = {key: value for key, value in cfg.items() if key != "type"} | built
        part = self.get(cfg["type"])
        self._check_arguments(part, cfg["type"], arguments)
        return part(**arguments)

    def _check_arguments(self, part: type, name: str, arguments: Mapping[str, Any]) -> None:
        known = contracts.constructor_parameters(part)
        unexpected = [repr(a) for a in arguments if a not in known]
        missing = [repr(p.name) for p in known.values() if p.default is p.empty and p.name not in arguments]
        if unexpected or missing:
            faults = [f"unexpected {', '.join(unexpected)}"] * bool(unexpected)
            faults += [f"missing {', '.join(missing)}"] * bool(missing)
            raise TypeError(
                f"{self.name} {name!r}: {'; '.join(faults)}; it takes ({', '.join(known)}). If the config "
                f"inherits another type through _base_, write {self.name}=dict(_delete_=True, type=...).")


ENCODERS = Registry("encoder", contracts=(contracts.Encoder,), location="toolkit.networks")
DECODERS = Registry("decoder", contracts=(contracts.Decoder,), location="toolkit.networks")
QUANTIZERS = Registry("quantizer", contracts=(contracts.Quantizer,), location="toolkit.quantizers")
DISCRIMINATORS = Registry("discriminator", contracts=(contracts.Discriminator,),
                          location="toolkit.networks")
LOSSES = Registry("loss", contracts=(contracts.Loss, contracts.AdversarialLoss, contracts.GeneratorWeight),
                  location="toolkit.losses")
METRICS = Registry("metric", contracts=(contracts.Metric,), location="toolkit.metrics")
DATASETS = Registry("dataset", contracts=(contracts.Dataset,), location="toolkit.data")

ALL = (ENCODERS, DECODERS, QUANTIZERS, DISCRIMINATORS, LOSSES, METRICS, DATASETS)


def main() -> None:
    """List every part of every kind with the first line of its docstring.

    Example:
        >>> main()   # doctest: +ELLIPSIS
         kind ...
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", "type", "source", "what it is", box=None)
    for registry in ALL:
        registry.import_from_location()
        for name, part in sorted(registry.module_dict.items()):
            table.add_row(registry.name, name, part.__module__, (part.__doc__ or "").split("\n")[0])
    Console().print(table)

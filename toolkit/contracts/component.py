"""The base class of everything in a registry: an object that records its constructor arguments."""

from __future__ import annotations

import inspect
import os
from typing import Any


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The named arguments of a class's constructor, without ``self``.

    A constructor with ``**kwargs`` forwards them, so the arguments of the next constructor in the MRO count too.

    Example:
        >>> from torch import nn
        >>> class Square(nn.Linear):
        ...     def __init__(self, features, **kwargs): super().__init__(features, features, **kwargs)
        >>> list(constructor_parameters(Square))
        ['features', 'in_features', 'out_features', 'bias', 'device', 'dtype']
    """
    named: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                named.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return named


class Component:
    """An object in a registry; :attr:`config` has the arguments it was constructed with.

    Arguments that reach a parent's constructor through ``**kwargs`` are recorded under the parent's names. What
    cannot be recorded (``*args``, names that no constructor declares, values that JSON cannot hold) raises TypeError
    at construction. Tuples are recorded as lists, paths as text.

    Example:
        >>> class Scale(Component):
        ...     def __init__(self, *, factor: float = 2.0): ...
        >>> Scale(factor=3.0).config
        {'type': 'Scale', 'factor': 3.0}
    """

    type_name: str | None = None  # the registered name, set by the registry

    def __new__(cls, *args: Any, **kwargs: Any):
        component = super().__new__(cls)
        if (args or kwargs) and cls.__init__ is object.__init__:  # which accepts them, as __new__ is overridden
            raise TypeError(f"{cls.__name__} takes no arguments, got {[*args, *kwargs]}.")
        signature = inspect.signature(cls.__init__)
        # copy and pickle call __new__ without arguments; the config comes with the rest of the state.
        bound = signature.bind_partial(component, *args, **kwargs)
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        unnamed: tuple[Any, ...] = ()
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= value
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                unnamed = value
            else:
                arguments[name] = value
        known = constructor_parameters(cls)
        if unnamed or (unknown := arguments.keys() - known.keys()):
            raise TypeError(f"{cls.__name__} records its arguments by name and takes ({', '.join(known)}), got "
                            f"{[*unnamed] or sorted(unknown)}; declare them in a constructor.")
        # As configs: the caller may change a list later.
        try:
            recorded = {key: _as_config(value) for key, value in arguments.items()}
        except TypeError as error:
            raise TypeError(f"{cls.__name__} cannot record its arguments: {error}") from None
        object.__setattr__(component, "_arguments", recorded)
        return component

    @property
    def config(self) -> dict[str, Any]:
        """The component as a config: its ``type``, the given arguments and its own defaults, children included."""
        return {"type": type(self).__dict__.get("type_name") or type(self).__name__,
                **{name: _as_config(value) for name, value in self._arguments.items()}}


def _as_config(value: Any) -> Any:
    if isinstance(value, Component):
        return value.config
    if isinstance(value, list | tuple):
        return [_as_config(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _as_config(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"needed components, lists, dicts with text keys, numbers, text or None, got {value!r}.")

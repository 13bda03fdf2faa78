"""What a registry holds: an object that remembers how it was built."""

from __future__ import annotations

import inspect
from typing import Any


def constructor_parameters(part: type) -> dict[str, inspect.Parameter]:
    """The named arguments of a class's constructor, without ``self``.

    Example:
        >>> from torch import nn
        >>> list(constructor_parameters(nn.Linear))
        ['in_features', 'out_features', 'bias', 'device', 'dtype']
    """
    parameters = list(inspect.signature(part.__init__).parameters.values())[1:]
    # A module without a constructor of its own shows torch's catch-all arguments, which take nothing.
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


class Component:
    """Anything a registry holds: it remembers how it was built.

    Example:
        >>> class Scale(Component):
        ...     def __init__(self, *, factor: float = 2.0): ...
        >>> Scale(factor=3.0).config
        {'type': 'Scale', 'factor': 3.0}
    """

    type_name: str | None = None  # the registered name; registries fill it in

    def __new__(cls, *args: Any, **kwargs: Any):
        part = super().__new__(cls)
        # A copy is made without arguments and gets its config with the rest of its state.
        bound = inspect.signature(cls.__init__).bind_partial(part, *args, **kwargs)
        bound.apply_defaults()
        if (args or kwargs) and cls.__init__ is object.__init__:  # which lets them pass, as __new__ is ours
            raise TypeError(f"{cls.__name__} takes no arguments, got {[*args, *kwargs]}.")
        named = constructor_parameters(cls)
        # As they are now: a list that the caller changes later was not what the part was built with.
        object.__setattr__(part, "_arguments", {k: _as_config(v) for k, v in bound.arguments.items() if k in named})
        return part

    @property
    def config(self) -> dict[str, Any]:
        """The part as a config: its ``type`` and every constructor argument, children included."""
        return {"type": type(self).__dict__.get("type_name") or type(self).__name__,
                **{name: _as_config(value) for name, value in self._arguments.items()}}


def _as_config(value: Any) -> Any:
    if isinstance(value, Component):
        return value.config
    if isinstance(value, list | tuple):
        return [_as_config(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_config(item) for key, item in value.items()}
    return value

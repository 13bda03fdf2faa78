"""Components that differ from a valid one in a few class attributes or methods."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def variant(base: type[T], **attributes: Any) -> T:
    """An instance of a subclass of ``base`` with these class attributes or methods; it cannot be pickled."""
    return type(f"{base.__name__}_{'_'.join(attributes)}", (base,), attributes)()

"""One check of a component, and the error message of one that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ContractViolation(AssertionError):
    """A component does not meet its contract; the message names it, the requirement, what it did and what to do.

    Example:
        >>> with check(object(), "codes keep the latents' dtype") as checked:
        ...     checked.need(False, needed="float32", got="float64", do="cast the codes")
        Traceback (most recent call last):
        toolkit.testing.checks.ContractViolation: object fails the check "codes keep the latents' dtype": ...
    """


class Check:
    """One requirement that a component is checked for."""

    def __init__(self, component: object, text: str):
        self.who, self.text = type(component).__name__, text

    def violation(self, *, needed: str, got: str, do: str) -> ContractViolation:
        """The error of this check."""
        return ContractViolation(f'{self.who} fails the check "{self.text}": needed {needed}, got {got}; {do}.')

    def need(self, condition: bool, *, needed: str, got: str, do: str) -> None:
        """Raise the error unless the condition holds."""
        if not condition:
            raise self.violation(needed=needed, got=got, do=do)

    def need_refusal(self, call: Callable[[], object], *, of: str, do: str) -> None:
        """Raise the error unless ``call`` raises ValueError."""
        try:
            call()
        except ValueError:
            return
        except Exception as error:  # any other error fails the check
            raise self.violation(needed=f"a ValueError for {of}", got=_named(error), do=do) from error
        raise self.violation(needed=f"a ValueError for {of}", got="no error", do=do)


@contextmanager
def check(component: object, text: str, *, do: str = "see the error above, which is its cause") -> Iterator[Check]:
    """Check one requirement; an error that the component raises within fails the check, with ``do`` as advice."""
    checked = Check(component, text)
    try:
        yield checked
    except ContractViolation:
        raise
    except Exception as error:  # third-party code may raise anything
        raise checked.violation(needed="no error", got=_named(error), do=do) from error


def check_type(component: object, contract: type) -> None:
    """The component is an instance of its contract."""
    article = "an" if contract.__name__[0] in "AE" else "a"
    with check(component, f"it is {article} {contract.__name__}") as checked:
        checked.need(isinstance(component, contract), needed=f"an instance of toolkit.{contract.__name__}",
                     got=f"{type(component).__mro__}", do="derive the class from it")


def _named(error: Exception) -> str:
    return f"{type(error).__name__} ({error})"

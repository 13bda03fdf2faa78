"""How a broken law is told: who, which law, what was needed, what was seen, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ContractViolation(AssertionError):
    """A part breaks a law of its contract; the message says which, what was seen and what to do.

    Example:
        >>> with law(object(), "codes keep the latents' dtype") as checked:
        ...     checked.need(False, needed="float32", got="float64", do="cast the codes")
        Traceback (most recent call last):
        toolkit.testing.violations.ContractViolation: object breaks the law "codes keep the latents' dtype": ...
    """


class Law:
    """One law that a part is held to.

    Args:
        part: The part; its class is named in messages.
        text: The law in a few words.

    Example:
        >>> Law(object(), "it is there").need(True, needed="it", got="it", do="nothing")
    """

    def __init__(self, part: object, text: str):
        self.who, self.text = type(part).__name__, text

    def violation(self, *, needed: str, got: str, do: str) -> ContractViolation:
        """The exception that says so."""
        return ContractViolation(f'{self.who} breaks the law "{self.text}": needed {needed}, got {got}; {do}.')

    def need(self, condition: bool, *, needed: str, got: str, do: str) -> None:
        """Nothing if the condition holds.

        Raises:
            ContractViolation: If it does not.
        """
        if not condition:
            raise self.violation(needed=needed, got=got, do=do)

    def need_refusal(self, call: Callable[[], object], *, of: str, do: str) -> None:
        """Call something that has to raise ValueError.

        Raises:
            ContractViolation: If it raises nothing or another error.
        """
        try:
            call()
        except ValueError:
            return
        except Exception as error:  # whatever it is: users were promised another one
            raise self.violation(needed=f"a ValueError for {of}", got=_named(error), do=do) from error
        raise self.violation(needed=f"a ValueError for {of}", got="no error", do=do)


@contextmanager
def law(part: object, text: str, *, do: str = "see the error above, which is its cause") -> Iterator[Law]:
    """Check a law: what the part itself raises meanwhile becomes a violation of that law.

    Args:
        part: The part.
        text: The law in a few words.
        do: What to do about an error.

    Raises:
        ContractViolation: If the law is broken, or anything was raised, which is chained.

    Example:
        >>> with law(object(), "it can be called"): object()()
        Traceback (most recent call last):
        toolkit.testing.violations.ContractViolation: object breaks the law "it can be called": needed no error, ...
    """
    checked = Law(part, text)
    try:
        yield checked
    except ContractViolation:
        raise
    except Exception as error:  # the part's own code ran in here and may raise anything
        raise checked.violation(needed="no error", got=_named(error), do=do) from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__} ({error})"

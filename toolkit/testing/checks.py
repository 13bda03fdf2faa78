"""One check of a component, and the error of a failed check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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

    def need_finite(self, tensor: Tensor, called: str, *, do: str) -> None:
        """Raise the error if the tensor has NaN or infinity."""
        self.need(bool(tensor.isfinite().all()), needed=f"finite {called}", got="NaN or infinity", do=do)

    def need_scalar(self, value: object, called: str) -> None:
        """Raise the error unless the value is a finite () float32 tensor."""
        self.need(isinstance(value, Tensor) and value.shape == () and value.dtype == torch.float32,
                  needed=f"{called} as a () float32 tensor", got=describe(value),
                  do="compute in float32 (x.float()) and take the mean over batch and positions")
        self.need(bool(value.isfinite()), needed=f"a finite {called}", got=f"{value.item()}",
                  do="look for the logarithm of zero or a division by zero")

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
    """Check that the component is an instance of its contract."""
    article = "an" if contract.__name__[0] in "AE" else "a"
    with check(component, f"it is {article} {contract.__name__}") as checked:
        checked.need(isinstance(component, contract), needed=f"an instance of toolkit.{contract.__name__}",
                     got=f"{type(component).__mro__}", do="derive the class from it")


def describe(value: object) -> str:
    """Shape and dtype of a tensor, anything else as Python shows it."""
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"{value!r}"


def _named(error: Exception) -> str:
    return f"{type(error).__name__} ({error})"

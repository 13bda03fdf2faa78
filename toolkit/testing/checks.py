"""One check of a component, and the error of a failed check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Record = Mapping[str, Tensor]  # results by name


class ContractViolation(AssertionError):
    """A component does not meet its contract; the message names it, the requirement, what it did and what to do.

    Example:
        >>> with Check(object(), "codes keep the latents' dtype") as checked:
        ...     checked.need(False, needed="float32", got="float64", do="cast the codes")
        Traceback (most recent call last):
        toolkit.testing.checks.ContractViolation: object fails the check "codes keep the latents' dtype": ...
    """


class Check:
    """One requirement of a component, as a context: an error within it fails the check.

    ``do`` is the advice for such an error, and for methods that get none.
    """

    def __init__(self, component: object, text: str, *, do: str = "see the error above, which is its cause"):
        self.who, self.text, self.do = type(component).__name__, text, do

    def __enter__(self) -> Check:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ContractViolation):
            raise self.violation(needed="no error", got=_named(error)) from error

    def violation(self, *, needed: str, got: str, do: str | None = None) -> ContractViolation:
        """The error of this check."""
        return ContractViolation(
            f'{self.who} fails the check "{self.text}": needed {needed}, got {got}; {do or self.do}.')

    def need(self, condition: bool, *, needed: str, got: str, do: str | None = None) -> None:
        """Raise the error unless the condition holds."""
        if not condition:
            raise self.violation(needed=needed, got=got, do=do)

    def need_counts(self, component: object, *names: str) -> None:
        """Raise the error unless each of these attributes is an int of at least 1."""
        for name in names:
            self.need(is_count(value := getattr(component, name)), needed=f"{name}, an int of at least 1",
                      got=f"{value!r}", do=f"set self.{name}")

    def need_flags(self, component: object, *names: str) -> None:
        """Raise the error unless each of these attributes is a bool."""
        for name in names:
            self.need(isinstance(value := getattr(component, name), bool), needed=f"{name}, True or False",
                      got=f"{value!r}", do=f"set {name}")

    def need_finite(self, tensor: Tensor, called: str, *, do: str = "look for a division by zero") -> None:
        """Raise the error if the tensor has NaN or infinity."""
        self.need(bool(tensor.isfinite().all()), needed=f"finite {called}", got="NaN or infinity", do=do)

    def need_scalar(self, value: object, called: str) -> None:
        """Raise the error unless the value is a finite () float32 tensor."""
        self.need(isinstance(value, Tensor) and value.shape == () and value.dtype == torch.float32,
                  needed=f"{called} as a () float32 tensor", got=describe(value),
                  do="compute in float32 (x.float()) and take the mean over batch and positions")
        self.need(bool(value.isfinite()), needed=f"a finite {called}", got=f"{value.item()}",
                  do="look for the logarithm of zero or a division by zero")

    def need_gradient(self, output: Tensor, at: Sequence[Tensor], called: str) -> list[Tensor]:
        """Gradients of a random weighted sum; raise the error unless all are finite and one is not zero everywhere."""
        needed = f"a gradient at the {called} that is not zero everywhere"
        self.need(output.requires_grad, needed=needed, got="one cut off from any")
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(7))
        gradients = torch.autograd.grad((output * weights).sum(), at, allow_unused=True)
        gradients = [one for one in gradients if one is not None]
        self.need(any(one.any() for one in gradients), needed=needed, got="zeros" if gradients else "none")
        for one in gradients:
            self.need_finite(one, f"gradients at the {called}", do="look for a division by zero or the root of zero")
        return gradients

    def need_near(self, result: Record, expected: Record, *, needed: str, do: str | None = None, rel: float = 1e-5,
                  floor: float = 1e-7) -> None:
        """Raise the error unless each tensor is near the expected one, as :func:`near` says."""
        for name, tensor in expected.items():
            self.need(near(result[name], tensor, rel=rel, floor=floor), needed=needed,
                      got=f"other {name}: {_difference(result[name], tensor)}", do=do)

    def need_untouched(self, tensor: Tensor, before: Tensor, called: str) -> None:
        """Raise the error if an input was changed."""
        self.need(torch.equal(tensor, before), needed=f"{called} that are left as they were", got="changed ones",
                  do="use no in-place operation on the input")

    def need_refusal(self, call: Callable[[], object], *, of: str, do: str) -> None:
        """Raise the error unless ``call`` raises ValueError."""
        try:
            call()
        except ValueError:
            return
        except Exception as error:  # any other error fails the check
            raise self.violation(needed=f"a ValueError for {of}", got=_named(error), do=do) from error
        raise self.violation(needed=f"a ValueError for {of}", got="no error", do=do)


def check_type(component: object, contract: type) -> None:
    """Check that the component is an instance of its contract."""
    with Check(component, f"its class is derived from {contract.__name__}") as checked:
        checked.need(isinstance(component, contract), needed=f"an instance of toolkit.{contract.__name__}",
                     got=f"{type(component).__mro__}", do="derive the class from it")


def is_count(number: object) -> bool:
    """Whether a value is an int of at least 1."""
    return type(number) is int and number > 0


def near(result: Tensor, expected: Tensor, *, rel: float = 1e-5, floor: float = 1e-7) -> bool:
    """Whether two tensors differ by at most ``rel`` of the largest entry; of integers, not at all."""
    if result.shape != expected.shape or not expected.is_floating_point() or not expected.numel():
        return torch.equal(result, expected)
    result, expected = result.detach().double(), expected.detach().double()
    return bool(((result - expected).abs() <= rel * expected.abs().max() + floor).all())


def describe(value: object) -> str:
    """Shape and dtype of a tensor, anything else as Python shows it."""
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"{value!r}"


def _difference(result: Tensor, expected: Tensor) -> str:
    if result.shape != expected.shape:
        return f"{tuple(result.shape)} instead of {tuple(expected.shape)}"
    if result.numel() == 1:
        return f"{result.item():.6g} instead of {expected.item():.6g}"
    wrong, size = int((result != expected).sum()), (result.double() - expected.double()).abs().max().item()
    return f"a difference at {wrong} of {result.numel()} places, of at most {size:.3g}"


def _named(error: Exception) -> str:
    return f"{type(error).__name__} ({error})"

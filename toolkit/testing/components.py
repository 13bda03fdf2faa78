"""Helpers of all checks: copies, rebuilding, saving, states, comparisons and tiny inputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from toolkit.build import build_component
from toolkit.contracts import Component
from toolkit.registry import Registry
from toolkit.testing.checks import check

P = TypeVar("P", bound=Component)
Size = tuple[int, int, int]


def tiny_pixels(*, batch: int = 2, channels: int = 3, size: Size = (1, 8, 8), seed: int = 0) -> Tensor:
    """Random pixels (B, C, T, H, W) float32 in [-1, 1], the same for a seed; torch's generator is not used.

    Example:
        >>> tiny_pixels(size=(5, 16, 16)).shape
        torch.Size([2, 3, 5, 16, 16])
    """
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny_latents(*, dim: int, batch: int = 2, grid: Size = (1, 4, 4), seed: int = 0) -> Tensor:
    """Normal random latents (B, d, t, h, w) float32, the same for a seed; torch's generator is not used.

    Example:
        >>> tiny_latents(dim=6).shape
        torch.Size([2, 6, 1, 4, 4])
    """
    return torch.randn(batch, dim, *grid, generator=torch.Generator().manual_seed(seed))


def is_count(number: object) -> bool:
    """Whether a value is an int from 1 on."""
    return type(number) is int and number > 0


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator within the context, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def duplicate(component: P) -> P:
    """A deep copy on the CPU, so that no check changes the component itself."""
    with check(component, "a component can be copied",
               do="keep no tensor with a graph, open file or lock as an attribute"):
        other = copy.deepcopy(component)
        return other.cpu() if isinstance(other, nn.Module) else other


def check_config(component: Component) -> None:
    """Check that the config survives a JSON round trip."""
    with check(component, "the config is JSON, from which the component can be built again",
             do="take only numbers, strings, lists, dicts and other components as constructor arguments") as checked:
        config = component.config
        again = json.loads(json.dumps(config))
        checked.need(again == config, needed="a config that JSON gives back unchanged", got=f"{config} and {again}",
                     do="use strings as the keys of dicts among the arguments")


def rebuild(component: P, registry: Registry) -> P:
    """The component built again from its config: by its registry, or by its class if it is not registered."""
    check_config(component)
    config = json.loads(json.dumps(component.config))
    with check(component, "the config is all it takes to build the component again",
             do="take every choice as an argument that a config can state, and register the components among the "
                "arguments") as checked:
        other = build_as(type(component), config, registry)
        result = json.loads(json.dumps(other.config))
        checked.need(result == config, needed=f"the config {config} of the component built from it", got=f"{result}",
                     do="do not change arguments in the constructor before Component has seen them")
        return other


def build_as(kind: type[P], config: Mapping[str, Any], registry: Registry) -> P:
    """A component of a class from its config: by the registry that has this class, or else by the class itself."""
    name = kind.__dict__.get("type_name")
    if name is not None and name in registry and registry.get(name) is kind:
        return build_component(registry, config)
    return kind(**{key: _with_components(registry, value) for key, value in config.items() if key != "type"})


def _with_components(registry: Registry, value: Any) -> Any:
    """An argument with every dict that has a ``type`` replaced by the component built from it."""
    if isinstance(value, Mapping):
        return build_component(registry, value) if "type" in value else value
    return [_with_components(registry, item) for item in value] if isinstance(value, list) else value


def reloaded(component: P, registry: Registry) -> P:
    """A new instance under another seed, built from the config, with the weights out of a safetensors file's bytes."""
    with seeded(12345):
        fresh = duplicate(rebuild(component, registry))
    with check(component, "its state can be saved and loaded into a new instance",
             do="register tensors of fixed shape, each with its own memory, as parameters or buffers"):
        tensors = {name: tensor.detach().cpu() for name, tensor in component.state_dict().items()}
        # As a tokenizer's directory is written: float32.
        kept = save({name: (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
                     for name, tensor in tensors.items()})
        fresh.load_state_dict(load(kept))
    for name, tensor in fresh.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(tensors[name].dtype)  # a module in half precision stays one
    return fresh.train(component.training)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name, those included that are not saved."""
    named = [*module.named_parameters(), *module.named_buffers(), *module.state_dict().items()]
    return {name: tensor.detach().clone() for name, tensor in named if isinstance(tensor, Tensor)}


def changes(module: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that differ from an earlier :func:`state_of` in any bit."""
    now = state_of(module)
    return sorted(name for name in now.keys() | before.keys()
                  if name not in now or name not in before or not _same_bits(now[name], before[name]))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(
        torch.nan_to_num(one), torch.nan_to_num(other)) and torch.equal(one.isnan(), other.isnan())


def near(result: Tensor, expected: Tensor, *, rel: float = 1e-5, floor: float = 1e-7) -> bool:
    """Whether two tensors differ by at most ``rel`` of the largest entry; of integers, not at all."""
    if result.shape != expected.shape:
        return False
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(result, expected)
    result, expected = result.detach().double(), expected.detach().double()
    return bool(((result - expected).abs() <= rel * expected.abs().max() + floor).all())


def check_modes(component: nn.Module, call: Callable[[nn.Module], Tensor]) -> None:
    """Check that a component in eval mode is deterministic and changes no state."""
    component = duplicate(component).eval()
    before = state_of(component)
    with check(component, "in eval mode the same input gives the same output") as checked, torch.no_grad():
        outputs = []
        for seed in (1, 2):
            with seeded(seed):
                outputs.append(call(component))
        checked.need(torch.equal(*outputs), needed="equal outputs", got="different ones",
                     do="draw random numbers and move running values only if self.training")
    with check(component, "eval mode changes no state") as checked:
        touched = changes(component, before)
        checked.need(not touched, needed="parameters and buffers as before", got=f"changes of {touched}",
                     do="update running values only if self.training")


def check_saving(component: nn.Module, registry: Registry, call: Callable[[nn.Module], Tensor]) -> None:
    """Check that a component rebuilt from its config and weights has the same output in eval mode."""
    component = duplicate(component).eval()
    other = reloaded(component, registry).eval()
    with check(component, "saved and loaded, it gives the same") as checked:
        checked.need(near(call(other), call(component), rel=1e-6), needed="the output of the component that was saved",
                     got="another one", do="keep all that the output depends on in the constructor's arguments, "
                     "in parameters or in persistent buffers")

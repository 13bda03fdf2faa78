"""Helpers of all checks: copies, rebuilding, saving, states, comparisons and tiny inputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from toolkit.build import build_component
from toolkit.contracts import Component
from toolkit.registry import Registry
from toolkit.saving import save_component
from toolkit.testing.checks import Check, Record

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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator within the context, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def duplicate(component: P) -> P:
    """A deep copy on the CPU, so that no check changes the component itself."""
    with Check(component, "a component can be copied",
               do="keep no tensor with a graph, open file or lock as an attribute"):
        other = copy.deepcopy(component)
        return other.cpu() if isinstance(other, nn.Module) else other


def check_config(component: Component) -> dict[str, Any]:
    """Check that the config survives a JSON round trip, and return it."""
    with Check(component, "the config is JSON, from which the component can be built again",
               do="take only numbers, strings, lists, dicts and other components as constructor arguments") as checked:
        config = json.loads(json.dumps(component.config))
        checked.need(config == component.config, needed="a config that JSON gives back unchanged",
                     got=f"{component.config} and {config}", do="use strings as the keys of dicts among the arguments")
    return config


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
    """A new instance under another seed, built from the config, with the weights of a saved file."""
    config = check_config(component)
    with Check(component, "the config is all it takes to build the component again",
               do="take every choice as an argument that a config can state, and register the components among the "
                  "arguments") as checked, seeded(12345):
        fresh = build_as(type(component), config, registry)
        checked.need(fresh.config == config, needed=f"the config {config} of the component built from it",
                     got=f"{fresh.config}", do="do not change arguments in the constructor before Component has seen "
                     "them")
    with (Check(component, "its state can be saved and loaded into a new instance",
                do="register tensors of fixed shape, each with its own memory, as parameters or buffers"),
          TemporaryDirectory() as folder):
        save_component(component, folder)  # in float32
        fresh.load_state_dict(load_file(Path(folder, "model.safetensors")))
    dtypes = {name: tensor.dtype for name, tensor in component.state_dict().items()}
    for name, tensor in fresh.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(dtypes[name])  # a module in half precision stays one
    return fresh.train(component.training)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name, those included that are not saved."""
    return {name: tensor.detach().clone() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


@contextmanager
def unchanged(checked: Check, module: nn.Module, *, do: str) -> Iterator[None]:
    """Raise the check's error if the context changes a parameter or buffer of the module in any bit."""
    before = state_of(module)
    yield
    now = state_of(module)
    touched = sorted(name for name in now.keys() | before.keys()
                     if name not in now or name not in before or not _same_bits(now[name], before[name]))
    checked.need(not touched, needed="parameters and buffers as before", got=f"changes of {touched}", do=do)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def check_modes(component: nn.Module, call: Callable[[nn.Module], Record]) -> None:
    """Check that a component in eval mode is deterministic and changes no state."""
    component = duplicate(component).eval()
    with Check(component, "in eval mode the same input gives the same output") as checked, torch.no_grad():
        copied, outputs = duplicate(component), []
        for seed in (1, 2):
            with seeded(seed):
                outputs.append(call(copied))
        checked.need_near(*outputs, rel=0, floor=0, needed="equal outputs",
                          do="draw random numbers and move running values only if self.training")
    with Check(component, "eval mode changes no state") as checked:
        with unchanged(checked, component, do="update running values only if self.training"):
            call(component)


def check_batch(component: nn.Module, call: Callable[[nn.Module, Tensor], Record], x: Tensor, *, training: bool,
                rel: float, do: str) -> None:
    """Check that the result of each sample of ``x`` is the same in its batch, among other samples and alone."""
    component, mode = duplicate(component).train(training), "training" if training else "eval mode"
    with Check(component, f"in {mode} a sample's result does not depend on the rest of its batch", do=do) as checked:
        for number in range(len(x)):
            others = torch.ones_like(x)
            others[number] = x[number]
            results = []
            for batch, place in ((x, number), (others, number), (x[number:number + 1], 0)):
                with seeded(4), torch.no_grad():
                    results.append({name: tensor[place] for name, tensor in call(component, batch).items()})
            for result, where in zip(results[1:], ("among others", "alone"), strict=True):
                checked.need_near(result, results[0], rel=rel,
                                  needed=f"for sample {number} {where} the result it has in a batch")


def check_saving(component: P, registry: Registry, call: Callable[[P], Record]) -> P:
    """Check that a component rebuilt from its config and weights has the same output in eval mode, and return it."""
    component = duplicate(component).eval()
    other = reloaded(component, registry).eval()
    with Check(component, "saved and loaded, it gives the same") as checked:
        checked.need_near(call(other), call(component), rel=1e-6, needed="the output of the component that was saved",
                          do="keep all that the output depends on in the constructor's arguments, in parameters or in "
                             "persistent buffers")
    return other


def check_module(component: P, registry: Registry, call: Callable[[P, Tensor], Record], x: Tensor, *,
                 modes: Sequence[bool] = (False,), rel: float = 1e-5,
                 do: str = "use no statistic of the batch in eval mode") -> P:
    """Check eval mode, batches (in eval and, if True is among ``modes``, training) and saving; return the saved one."""
    check_modes(component, lambda one: call(one, x))  # before other batches: random outputs differ there too
    for training in modes:
        check_batch(component, call, x, training=training, rel=rel, do=do)
    return check_saving(component, registry, lambda one: call(one, x))

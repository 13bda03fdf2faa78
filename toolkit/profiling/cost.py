"""Arithmetic and memory of the trainer's own step, on fake tensors: it takes seconds on any machine, and no memory."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from toolkit.config import ConfigError
from toolkit.contracts import Quantizer
from toolkit.pretrained.frozen import Frozen
from toolkit.training.objective import AdversarialTerms
from toolkit.training.optimizer import NetworkHandle
from toolkit.training.settings import value_at
from toolkit.training.step import discriminator_pass, prepare_step, tokenizer_pass
from toolkit.training.trainer import RunComponents

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # that most is computed in


@dataclass
class Phase:
    """A phase of a step."""

    name: str
    flops: int  # multiplications and additions of convolutions and matrix products, counted separately
    kept: int  # bytes in use when it ends: outputs, and what autograd keeps for the backward pass
    peak: int  # the most bytes in use at once within it
    share: float = 1.0  # of the steps that have this phase


class Meter(TorchDispatchMode):
    """Counts the arithmetic within it as ``torch.utils.flop_counter`` does, and the bytes of all tensors in use.

    Several tensors of one storage count once, until the last of them is gone. It also sees into autograd functions,
    where torch's own FlopCounterMode fails.
    """

    def __init__(self):
        super().__init__()
        self.phases: list[Phase] = []
        self._flops = self._used = self._peak = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def exclude(self, tensors: Iterable[Tensor]) -> None:
        """Do not count the memory of these."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()] = True

    @contextmanager
    def phase(self, name: str, *, share: float = 1.0) -> Iterator[None]:
        """What is computed within it becomes a phase."""
        before, self._peak = self._flops, self._used
        yield
        self.phases.append(Phase(name, self._flops - before, self._used, self._peak, share))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self._flops += count(*args, **kwargs, out_val=output)
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = True
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return output

    def _change(self, num_bytes: int) -> None:
        self._used += num_bytes
        self._peak = max(self._peak, self._used)


def frozen_networks(module: nn.Module) -> list[nn.Module]:
    """Frozen networks within a module, such as that of a perceptual loss."""
    return [child.network for child in module.modules() if isinstance(child, Frozen)]


def make_fake(module: nn.Module) -> None:
    """Replace all parameters and buffers by fake ones, within a FakeTensorMode."""
    @functools.cache  # one parameter may belong to several modules
    def fake(tensor: Tensor) -> Tensor:
        layout = torch.channels_last_3d if tensor.dim() == 5 else torch.contiguous_format  # as in training
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", memory_format=layout)
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made

    for child in module.modules():
        for tensors in (child._parameters, child._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})
    for network in frozen_networks(module):
        make_fake(network)
        network.to = lambda device: None  # torch cannot move fake parameters


def step_phases(pixels: Tensor, run: RunComponents, *, modality: str, meter: Meter) -> None:
    """Run the trainer's step on pixels (B, C, T, H, W), phase by phase, with all schedules at their ends."""
    settings, objective, step = run.settings, run.objective, run.settings.max_steps
    again = " and the forward pass again" if settings.activation_checkpointing else ""
    tokenizer, discriminator = NetworkHandle(run.tokenizer), run.discriminators.get(modality)
    discriminator = discriminator and NetworkHandle(discriminator)
    autocast = functools.partial(torch.autocast, pixels.device.type, enabled=settings.mixed_precision != "no",
                                 dtype=DTYPES[settings.mixed_precision])
    prepare_step(tokenizer, objective, settings, step)
    output, _ = tokenizer_pass(
        pixels, tokenizer, objective, discriminator, step=step, modality=modality, autocast=autocast,
        phase=lambda name: meter.phase(f"{name}{again}" if name == "tokenizer, backward" else name))
    if discriminator is None or not objective.adversaries[modality].is_active(step):
        return
    for name, at, share in _discriminator_steps(objective.adversaries[modality], step):
        with meter.phase(name, share=share):
            discriminator_pass(pixels, output, objective, discriminator, step=at, modality=modality, autocast=autocast)


def _discriminator_steps(terms: AdversarialTerms, step: int) -> list[tuple[str, int, float]]:
    """(name, an optimizer step of the kind, share of the steps) of the discriminator's steps, with R1 and without."""
    name, every = "discriminator, forward and backward", terms.r1_every
    if not value_at(terms.r1_weight, step):
        return [(name, step, 1.0)]
    with_r1 = (f"{name}, with R1", -(-step // every) * every, 1 / every)
    return [with_r1] if every == 1 else [(name, with_r1[1] + 1, 1 - 1 / every), with_r1]


def measure_step(shape: tuple[int, ...], run: RunComponents, *, modality: str) -> list[Phase]:
    """The phases of a step of one micro-batch (B, C, T, H, W) on a CPU; the networks become fake.

    Bytes exclude weights, their gradients, and a library's workspace within one operation. A GPU's mixed precision
    keeps some activations in float32 that a CPU's does not. A step that depends on values raises a ConfigError.
    """
    for module in run.tokenizer.modules():
        if isinstance(module, Quantizer):  # running averages depend on values, and cost next to nothing
            module.frozen = True
    modules = [run.tokenizer, run.objective, *filter(None, [run.discriminators.get(modality)])]
    try:
        with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
            for module in modules:
                make_fake(module)
            held = [tensor for module in (*modules, *frozen_networks(run.objective))
                    for tensor in (*module.parameters(), *module.buffers())]
            for tensor in held:
                if tensor.requires_grad:  # there from the start, so that gradients are told from activations
                    tensor.grad = torch.empty_like(tensor)
            with Meter() as meter:
                meter.exclude([*held, *(tensor.grad for tensor in held if tensor.grad is not None)])
                step_phases(torch.empty(shape), run, modality=modality, meter=meter)
    except (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException,
            fake_tensor.UnsupportedFakeTensorException) as error:
        raise ConfigError(f"the cost of this step depends on numbers, in {error}; remove the quantizer's "
                          "quantize_dropout, or the plugin that does this, for the dry run.") from error
    return meter.phases


def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """FLOP per second of the device's fastest product of square matrices."""
    synchronize = (torch.cuda if device.type == "cuda" else torch.cpu).synchronize
    best, size, count, end = 0.0, 256, 0, time.perf_counter() + seconds
    while count < 10 or time.perf_counter() < end:  # enough that some run undisturbed
        count += 1
        matrix = torch.randn(size, size, device=device).to(dtype)
        synchronize()
        begun = time.perf_counter()
        torch.mm(matrix, matrix)
        synchronize()
        took = time.perf_counter() - begun
        best = max(best, 2 * size**3 / took)
        if took < seconds / 50 and size < 8192:
            size *= 2
    return best

"""Arithmetic and memory of the trainer's own step, on fake tensors: it takes seconds on any machine, and no memory."""

from __future__ import annotations

import copy
import functools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from toolkit.layers.distributed import as_one_process
from toolkit.pretrained.frozen import Frozen
from toolkit.training.objective import AdversarialTerms
from toolkit.training.optimizer import NetworkHandle
from toolkit.training.settings import value_at
from toolkit.training.step import discriminator_pass, prepare_step, tokenizer_pass
from toolkit.training.trainer import RunComponents

ATTENTION = (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
             torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward)
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # that most is computed in


@dataclass
class Phase:
    """A phase of a step."""

    name: str
    flops: int  # multiplications and additions of convolutions and matrix products, counted separately
    kept: int  # bytes in use when it ends: outputs, and what autograd keeps for the backward pass
    peak: int  # the most bytes in use at once within it
    share: float = 1.0  # of the steps that have this phase


def attention_flops(query: Tensor, key: Tensor, value: Tensor) -> int:
    """FLOPs of softmax(q k^T) v, of (..., N, E), (..., M, E) and (..., M, F); torch has no count for a CPU's kernel."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1])


def flop_count(operator: Any) -> Callable[..., int] | None:
    """The function that counts an operator's FLOPs from its arguments and output; None if it counts none.

    The count of attention is that of its matrix products, whichever kernel is chosen; the backward pass has twice
    as many.
    """
    forward, backward = ATTENTION
    if operator is forward:
        return _attention_forward
    if operator is backward:
        return _attention_backward
    return flop_registry.get(operator)


def _attention_forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return attention_flops(query, key, value)


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * attention_flops(query, key, value)


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
        if (count := flop_count(func._overloadpacket)) is not None:
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


def fake_copies(modules: list[nn.Module]) -> list[nn.Module]:
    """Copies of modules, on any device, with fake parameters and buffers; call it within a FakeTensorMode."""
    memo: dict[int, Any] = {}  # of deepcopy: what is in it is not copied, so the values take no memory
    with_frozen = [*modules, *(network for module in modules for network in frozen_networks(module))]
    for tensor in (tensor for module in with_frozen for tensor in (*module.parameters(), *module.buffers())):
        layout = torch.channels_last_3d if tensor.dim() == 5 else torch.contiguous_format  # as in training
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", memory_format=layout)
        memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
    copies = copy.deepcopy(modules, memo)
    for network in (network for module in copies for network in frozen_networks(module)):
        network.to = lambda device: None  # torch cannot move fake parameters
    return copies


def step_phases(pixels: Tensor, run: RunComponents, *, modality: str, step: int, meter: Meter) -> None:
    """Run optimizer step ``step`` of the trainer on pixels (B, C, T, H, W), phase by phase."""
    settings, objective = run.settings, run.objective
    again = " and the forward pass again" if settings.activation_checkpointing else ""
    tokenizer, discriminator = NetworkHandle(run.tokenizer), run.discriminators.get(modality)
    if discriminator is not None:
        active = objective.adversaries[modality].is_active(step)
        discriminator = NetworkHandle(discriminator) if active else None
    autocast = functools.partial(torch.autocast, pixels.device.type, enabled=settings.mixed_precision != "no",
                                 dtype=DTYPES[settings.mixed_precision])
    prepare_step(tokenizer, objective, settings, step)
    output, _ = tokenizer_pass(
        pixels, tokenizer, objective, discriminator, step=step, modality=modality, autocast=autocast,
        phase=lambda name: meter.phase(f"{name}{again}" if name == "tokenizer, backward" else name))
    if discriminator is None:
        return
    terms = objective.adversaries[modality]  # a copy
    for name, share, r1_weight in _r1_cases(terms, step):
        terms.r1_weight, terms.r1_every = r1_weight, 1
        with meter.phase(f"discriminator, forward and backward{name}", share=share):
            discriminator_pass(pixels, output, objective, discriminator, step=step, modality=modality,
                               autocast=autocast)


def _r1_cases(terms: AdversarialTerms, step: int) -> list[tuple[str, float, float]]:
    """Steps without R1 and steps with it: (suffix of the phase's name, share of the steps, weight of R1)."""
    weight, every = value_at(terms.r1_weight, step), terms.r1_every
    if not weight:
        return [("", 1.0, 0.0)]
    with_r1 = (", with R1", 1 / every, weight)
    return [with_r1] if every == 1 else [("", 1 - 1 / every, 0.0), with_r1]


def measure_step(shape: tuple[int, ...], run: RunComponents, *, modality: str, step: int) -> list[Phase]:
    """The phases of optimizer step ``step`` with one micro-batch (B, C, T, H, W), on a CPU and on copies of the run.

    Bytes exclude weights, their gradients, and a library's workspace within one operation. A GPU's mixed precision
    keeps some activations in float32 that a CPU's does not. A step that depends on values raises a ConfigError.
    """
    try:
        with as_one_process(), fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
            modules = fake_copies([run.tokenizer, run.objective, *run.discriminators.values()])
            tokenizer, objective, *discriminators = modules
            copies = replace(run, tokenizer=tokenizer, objective=objective,
                             discriminators=dict(zip(run.discriminators, discriminators, strict=True)))
            for module in tokenizer.modules():
                if isinstance(module, Quantizer):  # running averages depend on values, and cost next to nothing
                    module.frozen = True
            held = [tensor for module in (*modules, *frozen_networks(objective))
                    for tensor in (*module.parameters(), *module.buffers())]
            for tensor in held:
                if tensor.requires_grad:  # there from the start, so that gradients are told from activations
                    tensor.grad = torch.empty_like(tensor)
            with Meter() as meter:
                meter.exclude([*held, *(tensor.grad for tensor in held if tensor.grad is not None)])
                step_phases(torch.empty(shape), copies, modality=modality, step=step, meter=meter)
    except (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException,
            fake_tensor.UnsupportedFakeTensorException) as error:
        raise ConfigError("the dry run and training.max_flops need steps whose cost does not depend on tensor values, "
                          f"got {error}; remove the quantizer's quantize_dropout, or the plugin that reads values."
                          ) from error
    return meter.phases


class SourceCost:
    """A micro-batch (B, C, T, H, W) from one source of data; ``share``: of the steps that draw from it."""

    def __init__(self, modality: str, shape: tuple[int, ...], share: float, phases: list[Phase]):
        self.modality, self.shape, self.share, self.phases = modality, shape, share, phases
        self.flops = sum(phase.flops * phase.share for phase in phases)  # averaged over steps
        self.peak = max(phase.peak for phase in phases)  # most bytes in use at once, without those of networks


def measure_sources(run: RunComponents, *, step: int) -> list[SourceCost]:
    """What one process computes in optimizer step ``step`` for a micro-batch of each source. No data is read.

    Raises:
        ConfigError: If a dataset has no ``sample_size``, or a step's cost depends on tensor values.
    """
    total = sum(source.weight for source in run.train)
    costs = []
    for source in run.train:
        modality, size = source.dataset.modality, source.dataset.sample_size
        if size is None:
            raise ConfigError("a dry run and training.max_flops read no data and need the dataset's sample_size, got a "
                              f"{source.dataset.config['type']} without one; measure a few steps and set "
                              "training.max_steps instead.")
        shape = (source.batch_size, run.tokenizer.encoder.in_channels, *size)
        costs.append(SourceCost(modality, shape, source.weight / total,
                                measure_step(shape, run, modality=modality, step=step)))
    return costs


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

"""What a training step costs in arithmetic and memory, found without computing it.

Everything runs as in training, but on fake tensors, which have shapes and no numbers: a step of a full-size network
takes seconds on any machine, and no memory.
"""

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
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from toolkit.config import ConfigError
from toolkit.contracts import Quantizer
from toolkit.pretrained.frozen import Frozen
from toolkit.tokenizer import Tokenizer
from toolkit.training.objective import Adversary, Objective
from toolkit.training.optimizer import Learner
from toolkit.training.schedules import value_at
from toolkit.training.settings import Settings
from toolkit.training.step import discriminator_pass, prepare_step, tokenizer_pass

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # that most is computed in


@dataclass
class Phase:
    """A part of a step.

    Attributes:
        name: What is computed.
        flops: Multiplications and additions of its convolutions and matrix products, each for itself.
        kept: Bytes that are in use when it ends: outputs, and what autograd keeps for the backward pass.
        peak: The most bytes in use at once within it.
        share: Of the steps, in which it takes place.

    Example:
        >>> Phase("forward", flops=100, kept=0, peak=8, share=0.5).mean_flops
        50.0
    """

    name: str
    flops: int
    kept: int
    peak: int
    share: float = 1.0

    @property
    def mean_flops(self) -> float:
        """Per step."""
        return self.flops * self.share


class Meter(TorchDispatchMode):
    """Counts the arithmetic within it as ``torch.utils.flop_counter`` does, and the bytes of all tensors in use.

    Several tensors of one storage count once, and until the last of them is gone. Without modules to follow it
    also sees into autograd functions, where torch's own FlopCounterMode fails.

    Attributes:
        phases: Those measured so far.

    Example:
        >>> with Meter() as meter, meter.phase("product"):
        ...     product = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> [(phase.flops, phase.kept, phase.peak) for phase in meter.phases]   # 4 bytes of 8 + 6 + 12 numbers
        [(48, 32, 104)]
    """

    def __init__(self):
        super().__init__()
        self.phases: list[Phase] = []
        self._flops = self._used = self._peak = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
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
        found = func(*args, **kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self._flops += count(*args, **kwargs, out_val=found)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = True
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return found

    def _change(self, num_bytes: int) -> None:
        self._used += num_bytes
        self._peak = max(self._peak, self._used)


def frozen_networks(module: nn.Module) -> list[nn.Module]:
    """The networks that a module uses and nobody trains, such as a perceptual loss's.

    Example:
        >>> frozen_networks(nn.Sequential(Frozen(nn.Linear(1, 1))))
        [Linear(in_features=1, out_features=1, bias=True)]
    """
    return [part.network for part in module.modules() if isinstance(part, Frozen)]


def make_fake(module: nn.Module) -> None:
    """Replace all parameters and buffers by fake ones; within a FakeTensorMode.

    Example:
        >>> layer = nn.Linear(10**6, 10**6, device="meta")   # 4 TB
        >>> with FakeTensorMode():
        ...     make_fake(layer)
        ...     layer(torch.ones(1, 10**6)).shape
        torch.Size([1, 1000000])
    """
    def fake(tensor: Tensor) -> Tensor:  # of the layout that training gives it
        layout = torch.channels_last_3d if tensor.dim() == 5 else torch.contiguous_format
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", memory_format=layout)

    made: dict[Tensor, nn.Parameter] = {}  # one parameter may belong to several modules
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if parameter not in made:
                    made[parameter] = nn.Parameter(fake(parameter), requires_grad=parameter.requires_grad)
                part._parameters[name] = made[parameter]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fake(buffer)
    for network in frozen_networks(module):
        make_fake(network)
        network.to = lambda device: None  # it is there already, and torch cannot move fake parameters


def step_phases(pixels: Tensor, *, meter: Meter, tokenizer: Tokenizer, objective: Objective,
                discriminator: nn.Module | None, modality: str, settings: Settings) -> None:
    """Run the trainer's step on pixels (B, C, T, H, W), phase by phase, with all schedules at their ends."""
    step = settings.max_steps
    again = " and the forward pass again" if settings.activation_checkpointing else ""
    adversary = objective.adversaries[modality] if discriminator is not None else None
    learners = [Learner(network) if network is not None else None for network in (tokenizer, discriminator)]
    autocast = functools.partial(torch.autocast, pixels.device.type, enabled=settings.mixed_precision != "no",
                                 dtype=DTYPES[settings.mixed_precision])
    prepare_step(learners[0], objective, settings, step)
    output, _ = tokenizer_pass(
        pixels, learners[0], objective, learners[1], step=step, modality=modality, autocast=autocast,
        phase=lambda name: meter.phase(f"{name}{again}" if name == "tokenizer, backward" else name))
    if adversary is None or not adversary.is_active(step):
        return
    for name, at, share in _discriminator_steps(adversary, step):
        with meter.phase(name, share=share):
            discriminator_pass(pixels, output, objective, learners[1], step=at, modality=modality, autocast=autocast)


def _discriminator_steps(adversary: Adversary, step: int) -> list[tuple[str, int, float]]:
    """(name, an optimizer step of the kind, share of the steps) of the discriminator's steps, with R1 and without."""
    name, every = "discriminator, forward and backward", adversary.r1_every
    if not value_at(adversary.r1_weight, step):
        return [(name, step, 1.0)]
    with_r1 = (f"{name}, with R1", -(-step // every) * every, 1 / every)
    return [with_r1] if every == 1 else [(name, with_r1[1] + 1, 1 - 1 / every), with_r1]


def measure_step(shape: tuple[int, ...], *, tokenizer: Tokenizer, objective: Objective,
                 discriminator: nn.Module | None, modality: str, settings: Settings) -> list[Phase]:
    """The phases of a step of one micro-batch, as a CPU takes it; its networks become fake.

    Bytes leave out weights and their gradients. They are of tensors: what a library needs within one operation is
    not among them. A GPU's mixed precision keeps some activations in float32 that a CPU's does not.

    Args:
        shape: (B, C, T, H, W) of the micro-batch.
        tokenizer, objective, discriminator, modality, settings: As the trainer's.

    Raises:
        ConfigError: If the step depends on numbers, which fake tensors do not have.

    Example:
        >>> from toolkit import build_objective, build_tokenizer, load_config
        >>> config = load_config("configs/demo_video.py")
        >>> tokenizer = build_tokenizer(config.tokenizer)
        >>> objective = build_objective(config.objective, quantizer=tokenizer.quantizer)
        >>> phases = measure_step((6, 3, 9, 32, 32), tokenizer=tokenizer, objective=objective, discriminator=None,
        ...                       modality="video", settings=Settings(max_steps=1))
        >>> [phase.name for phase in phases]
        ['tokenizer, forward', 'losses and their gradients', 'tokenizer, backward']
    """
    for part in (tokenizer.encoder, tokenizer.decoder):
        part.activation_checkpointing = settings.activation_checkpointing
    for part in tokenizer.modules():
        if isinstance(part, Quantizer):  # running averages depend on numbers, and cost next to nothing
            part.frozen = True
    modules = [tokenizer, objective, *([discriminator] if discriminator is not None else [])]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            for module in modules:
                make_fake(module)
            held = [tensor for module in (*modules, *frozen_networks(objective))
                    for tensor in (*module.parameters(), *module.buffers())]
            for tensor in held:
                if tensor.requires_grad:  # there from the start, so that gradients are told from activations
                    tensor.grad = torch.empty_like(tensor)
            with Meter() as meter:
                meter.leave_out([*held, *(tensor.grad for tensor in held if tensor.grad is not None)])
                step_phases(torch.empty(shape), meter=meter, tokenizer=tokenizer, objective=objective,
                            discriminator=discriminator, modality=modality, settings=settings)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
        raise ConfigError(f"the cost of this step cannot be told beforehand: it depends on numbers, in {error}; such "
                          "are the quantizer's quantize_dropout and parts of plugins. Leave them out for the dry run.",
                          ) from error
    return meter.phases


def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """Multiplications and additions per second, each for itself, of the device's best product of square matrices.

    Example:
        >>> matrix_rate(torch.device("cpu"), torch.float32, seconds=0.01) > 1e6
        True
    """
    best, size, count, end = 0.0, 256, 0, time.perf_counter() + seconds
    while count < 10 or time.perf_counter() < end:  # some of them undisturbed, whatever else the machine does
        count += 1
        matrix = torch.randn(size, size, device=device).to(dtype)
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - begun
        best = max(best, 2 * size**3 / took)
        if took < seconds / 50 and size < 8192:
            size *= 2
    return best

"""What a run would cost: parameters, arithmetic, memory and time, with nothing written and no data read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch import nn

from toolkit.build import build_run
from toolkit.config import ConfigError
from toolkit.data import Source
from toolkit.profiling.cost import Phase, frozen_networks, measure_step
from toolkit.training.settings import Settings


@dataclass
class Network:
    """The numbers that a network holds through the whole run, in bytes but for the counts.

    Example:
        >>> held = Network.of("layer", [nn.Linear(3, 1)], averaged=True)
        >>> held.parameters, held.weights, held.gradients, held.adam, held.average
        (4, 16, 16, 32, 16)
    """

    name: str
    parameters: int
    trained: int
    weights: int
    gradients: int
    adam: int
    average: int

    @classmethod
    def of(cls, name: str, modules: Iterable[nn.Module], *, averaged: bool = False) -> Network:
        """Of some modules; ``averaged``: with an average of their weights beside them."""
        parameters = [parameter for module in modules for parameter in module.parameters()]
        learn = [parameter for parameter in parameters if parameter.requires_grad]
        buffers = [buffer for module in modules for buffer in module.buffers()]
        weights = sum(tensor.nbytes for tensor in (*parameters, *buffers))
        gradients = sum(parameter.nbytes for parameter in learn)
        return cls(name, sum(p.numel() for p in parameters), sum(p.numel() for p in learn), weights, gradients,
                   adam=2 * gradients, average=weights if averaged else 0)

    @property
    def held(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.adam + self.average


@dataclass
class SourceCost:
    """A micro-batch from one source of data.

    Attributes:
        modality: Of its samples.
        shape: (B, C, T, H, W).
        share: Of the steps that draw from it.
        phases: Of one micro-batch.

    Example:
        >>> cost = SourceCost("image", (2, 3, 1, 8, 8), 1.0, [Phase("tokenizer, forward", 10, kept=0, peak=8),
        ...                                                   Phase("R1", 100, kept=0, peak=9, share=0.1)])
        >>> cost.flops, cost.peak
        (20.0, 9)
    """

    modality: str
    shape: tuple[int, ...]
    share: float
    phases: list[Phase]

    @property
    def flops(self) -> float:
        """Of a micro-batch, averaged over steps."""
        return sum(phase.mean_flops for phase in self.phases)

    @property
    def peak(self) -> int:
        """The most bytes in use at once, those of :class:`Network` not counted."""
        return max(phase.peak for phase in self.phases)


@dataclass
class RunCost:
    """What one process of a run computes and holds.

    Attributes:
        networks: With what they hold.
        sources: One for each of ``data.train``.
        settings: The config's section ``training``.

    Example:
        >>> from toolkit import load_config
        >>> cost = run_cost(load_config("configs/demo_video.py"))
        >>> cost.networks[0].name, cost.sources[0].shape, cost.samples_per_step
        ('encoder', (6, 3, 9, 32, 32), 6.0)
    """

    networks: list[Network]
    sources: list[SourceCost]
    settings: Settings

    def _mean(self, of_source: Iterable[float]) -> float:
        """Per optimizer step."""
        return self.settings.gradient_accumulation_steps * sum(
            value * source.share for value, source in zip(of_source, self.sources, strict=True))

    @property
    def flops_per_step(self) -> float:
        """Of an optimizer step, averaged over sources and R1's turns."""
        return self._mean(source.flops for source in self.sources)

    @property
    def samples_per_step(self) -> float:
        """Of an optimizer step, averaged over sources."""
        return self._mean(source.shape[0] for source in self.sources)

    @property
    def flops_per_sample(self) -> float:
        """Of training."""
        return self.flops_per_step / self.samples_per_step

    @property
    def forward_flops_per_sample(self) -> float:
        """Of the tokenizer alone, there and back."""
        return self._mean(source.phases[0].flops for source in self.sources) / self.samples_per_step

    @property
    def memory(self) -> int:
        """Bytes in use at most."""
        return sum(network.held for network in self.networks) + max(source.peak for source in self.sources)


def run_cost(config: Config, *, num_processes: int = 1) -> RunCost:
    """Find what a config's run costs each of its processes. Data must be there, and is not read.

    Weights to start from need be there only where the config has no tokenizer of its own.

    Args:
        config: From :func:`toolkit.load_config`.
        num_processes: That share ``training.global_batch_size``.

    Raises:
        ConfigError: If the config does not hold together, or a step's cost depends on numbers.
        DataError: If a dataset finds no files.

    Example:
        >>> from toolkit import load_config
        >>> cost = run_cost(load_config("configs/demo_video.py"))
        >>> round(cost.flops_per_sample / cost.forward_flops_per_sample, 1)   # the backward pass is as two of them
        3.0
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element|for .* copying from a non-meta")
        run = build_run(config, num_processes=num_processes, device=torch.device("meta"))  # shapes alone, no memory
    settings, tokenizer = run.settings, run.tokenizer
    networks = [Network.of(name, [network], averaged=settings.ema_decay is not None)
                for name, network in tokenizer.named_children()]
    networks += [Network.of(f"discriminator ({modality})", [network])
                 for modality, network in run.discriminators.items()]
    networks += [Network.of(f"objective ({name})", [loss, *frozen_networks(loss)])
                 for name, loss in run.objective.losses.items()]
    total = sum(source.weight for source in run.train)
    sources = []
    for source in run.train:
        modality, shape = source.dataset.modality, batch_shape(source, channels=tokenizer.encoder.in_channels)
        phases = measure_step(shape, tokenizer=tokenizer, objective=run.objective, modality=modality,
                              settings=settings, discriminator=run.discriminators.get(modality))
        sources.append(SourceCost(modality, shape, source.weight / total, phases))
    return RunCost(networks, sources, settings)


def batch_shape(source: Source, *, channels: int) -> tuple[int, int, int, int, int]:
    """(B, C, T, H, W) of a source's micro-batches, told by its dataset's arguments.

    Raises:
        ConfigError: If the dataset has no argument ``size``.

    Example:
        >>> from toolkit.data import Images
        >>> batch_shape(Source(Images(size=(24, 32)), batch_size=4), channels=3)
        (4, 3, 1, 24, 32)
    """
    options = source.dataset.config
    if options.get("size") is None:
        raise ConfigError(f"a dry run reads no data and needs the dataset's argument size, got a {options['type']} "
                          "without one; measure a few steps instead.")
    size = options["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return source.batch_size, channels, options.get("num_frames", 1), height, width


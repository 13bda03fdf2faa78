"""Cost of a run: parameters, arithmetic, memory and time; nothing is written and no data is read."""

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
from toolkit.training.optimizer import optimizer_state_share
from toolkit.training.settings import Settings


@dataclass
class Network:
    """What a network holds during the whole run: counts of parameters, and bytes."""

    name: str
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    average: int

    @classmethod
    def of(cls, name: str, modules: Iterable[nn.Module], *, optimizer_share: float, averaged: bool = False) -> Network:
        """Count several modules as one network.

        ``optimizer_share``: bytes of optimizer state per byte of gradient. ``averaged``: with an average of weights.
        """
        parameters = [parameter for module in modules for parameter in module.parameters()]
        learn = [parameter for parameter in parameters if parameter.requires_grad]
        buffers = [buffer for module in modules for buffer in module.buffers()]
        weights = sum(tensor.nbytes for tensor in (*parameters, *buffers))
        gradients = sum(parameter.nbytes for parameter in learn)
        return cls(name, sum(p.numel() for p in parameters), sum(p.numel() for p in learn), weights, gradients,
                   optimizer=round(optimizer_share * gradients), average=weights if averaged else 0)

    @property
    def held(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimizer + self.average


@dataclass
class SourceCost:
    """A micro-batch (B, C, T, H, W) from one source of data; ``share``: of the steps that draw from it."""

    modality: str
    shape: tuple[int, ...]
    share: float
    phases: list[Phase]

    @property
    def flops(self) -> float:
        """FLOPs of a micro-batch, averaged over steps."""
        return sum(phase.flops * phase.share for phase in self.phases)

    @property
    def peak(self) -> int:
        """Most bytes in use at once, without those of :class:`Network`."""
        return max(phase.peak for phase in self.phases)


@dataclass
class RunCost:
    """What one process of a run computes and holds."""

    networks: list[Network]
    sources: list[SourceCost]
    settings: Settings

    def _mean(self, of_source: Iterable[float]) -> float:
        """Per optimizer step."""
        return self.settings.gradient_accumulation_steps * sum(
            value * source.share for value, source in zip(of_source, self.sources, strict=True))

    @property
    def flops_per_step(self) -> float:
        """FLOPs of an optimizer step, averaged over sources and steps with and without R1."""
        return self._mean(source.flops for source in self.sources)

    @property
    def samples_per_step(self) -> float:
        """Samples of an optimizer step, averaged over sources."""
        return self._mean(source.shape[0] for source in self.sources)

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs per sample."""
        return self.flops_per_step / self.samples_per_step

    @property
    def forward_flops_per_sample(self) -> float:
        """FLOPs of the tokenizer's forward pass per sample."""
        return self._mean(source.phases[0].flops for source in self.sources) / self.samples_per_step

    @property
    def memory(self) -> int:
        """Bytes in use at most."""
        return sum(network.held for network in self.networks) + max(source.peak for source in self.sources)


def run_cost(config: Config, *, num_processes: int = 1) -> RunCost:
    """What a config's run costs each of its processes. Data must exist, and is not read.

    ``training.init_from`` is read only if the config has no tokenizer.

    Raises:
        ConfigError: If the config does not hold together, or a step's cost depends on numbers.
        DataError: If a dataset finds no files.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element|for .* copying from a non-meta")
        run = build_run(config, num_processes=num_processes, device=torch.device("meta"))  # shapes alone, no memory
    settings, tokenizer = run.settings, run.tokenizer
    share = optimizer_state_share(settings)
    networks = [Network.of(name, [network], optimizer_share=share, averaged=settings.ema_decay is not None)
                for name, network in tokenizer.named_children()]
    networks += [Network.of(f"discriminator ({modality})", [network], optimizer_share=share)
                 for modality, network in run.discriminators.items()]
    networks += [Network.of(f"objective ({name})", [loss, *frozen_networks(loss)], optimizer_share=share)
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
    """(B, C, T, H, W) of a source's micro-batches, from its dataset's ``sample_size``."""
    size = source.dataset.sample_size
    if size is None:
        raise ConfigError("a dry run reads no data and needs the dataset's sample_size, got a "
                          f"{source.dataset.config['type']} without one; measure a few steps instead.")
    return source.batch_size, channels, *size


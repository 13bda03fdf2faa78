"""Cost of a run: parameters, arithmetic, memory and time; nothing is written and no data is read."""

from __future__ import annotations

import warnings

from mmengine.config import Config
from torch import nn

from toolkit.build import build_run
from toolkit.config import ConfigError
from toolkit.profiling.cost import Phase, frozen_networks, measure_step
from toolkit.training.optimizer import optimizer_state_ratio
from toolkit.training.settings import Settings


class Network:
    """What modules hold during the whole run, as one network: counts of parameters, and bytes.

    ``optimizer_ratio``: bytes of optimizer state per byte of gradient. ``averaged``: with an average of weights.
    """

    def __init__(self, name: str, *modules: nn.Module, optimizer_ratio: float, averaged: bool = False):
        parameters = [parameter for module in modules for parameter in module.parameters()]
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        buffers = [buffer for module in modules for buffer in module.buffers()]
        self.name = name
        self.parameters = sum(parameter.numel() for parameter in parameters)
        self.trained = sum(parameter.numel() for parameter in trained)
        self.weights = sum(tensor.nbytes for tensor in (*parameters, *buffers))
        self.gradients = sum(parameter.nbytes for parameter in trained)
        self.optimizer = round(optimizer_ratio * self.gradients)
        self.average = self.weights if averaged else 0
        self.held = self.weights + self.gradients + self.optimizer + self.average


class SourceCost:
    """A micro-batch (B, C, T, H, W) from one source of data; ``share``: of the steps that draw from it."""

    def __init__(self, modality: str, shape: tuple[int, ...], share: float, phases: list[Phase]):
        self.modality, self.shape, self.share, self.phases = modality, shape, share, phases
        self.flops = sum(phase.flops * phase.share for phase in phases)  # averaged over steps
        self.peak = max(phase.peak for phase in phases)  # most bytes in use at once, without those of networks


class RunCost:
    """What one process of a run computes and holds."""

    def __init__(self, networks: list[Network], sources: list[SourceCost], settings: Settings):
        self.networks, self.sources, self.settings = networks, sources, settings
        micro_batches = settings.gradient_accumulation_steps
        # FLOPs and samples of an optimizer step, averaged over sources and steps with and without R1.
        self.flops_per_step = micro_batches * sum(source.share * source.flops for source in sources)
        self.samples_per_step = micro_batches * sum(source.share * source.shape[0] for source in sources)
        self.flops_per_sample = self.flops_per_step / self.samples_per_step
        # FLOPs of the tokenizer's forward pass.
        self.forward_flops_per_sample = micro_batches * sum(
            source.share * source.phases[0].flops for source in sources) / self.samples_per_step
        # Bytes in use during the whole run, and at most.
        self.held = sum(network.held for network in networks)
        self.memory = self.held + max(source.peak for source in sources)


def run_cost(config: Config, *, num_processes: int = 1) -> RunCost:
    """What a config's run costs each of its processes, built without weights. Data must exist, and is not read.

    Raises:
        ConfigError: If the config is inconsistent, or a step's cost depends on numbers.
        DataError: If a dataset finds no files.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element|for .* copying from a non-meta")
        run = build_run(config, num_processes=num_processes, weights=False)
    settings, tokenizer, ratio = run.settings, run.tokenizer, optimizer_state_ratio(run.settings)
    networks = [*(Network(name, network, optimizer_ratio=ratio, averaged=settings.ema_decay is not None)
                  for name, network in tokenizer.named_children()),
                *(Network(f"discriminator ({modality})", network, optimizer_ratio=ratio)
                  for modality, network in run.discriminators.items()),
                *(Network(f"objective ({name})", loss, *frozen_networks(loss), optimizer_ratio=ratio)
                  for name, loss in run.objective.losses.items())]
    total = sum(source.weight for source in run.train)
    sources = []
    for source in run.train:
        modality, size = source.dataset.modality, source.dataset.sample_size
        if size is None:
            raise ConfigError("a dry run reads no data and needs the dataset's sample_size, got a "
                              f"{source.dataset.config['type']} without one; measure a few steps instead.")
        shape = (source.batch_size, tokenizer.encoder.in_channels, *size)
        sources.append(SourceCost(modality, shape, source.weight / total, measure_step(shape, run, modality=modality)))
    return RunCost(networks, sources, settings)

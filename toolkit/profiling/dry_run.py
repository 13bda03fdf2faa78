"""Cost of a run: parameters, arithmetic, memory and time; nothing is written and no data is read."""

from __future__ import annotations

from torch import nn

from toolkit.profiling.cost import SourceCost, frozen_networks
from toolkit.profiling.training_flops import TrainingFlops
from toolkit.training.optimizer import optimizer_state_ratio
from toolkit.training.settings import Settings
from toolkit.training.trainer import RunComponents


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


class RunCost:
    """What one process of a run computes and holds."""

    def __init__(self, networks: list[Network], sources: list[SourceCost], settings: Settings, *, total_flops: int):
        self.networks, self.sources, self.settings = networks, sources, settings
        self.total_flops = total_flops  # of the whole training, by all processes
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


def run_cost(run: RunComponents, *, num_processes: int = 1) -> RunCost:
    """What a run costs each of its processes, at the ends of its schedules. No data is read.

    Raises:
        ConfigError: If a dataset has no ``sample_size``, or a step's cost depends on tensor values.
    """
    settings, ratio = run.settings, optimizer_state_ratio(run.settings)
    networks = [*(Network(name, network, optimizer_ratio=ratio, averaged=settings.ema_decay is not None)
                  for name, network in run.tokenizer.named_children()),
                *(Network(f"discriminator ({modality})", network, optimizer_ratio=ratio)
                  for modality, network in run.discriminators.items()),
                *(Network(f"objective ({name})", loss, *frozen_networks(loss), optimizer_ratio=ratio)
                  for name, loss in run.objective.losses.items())]
    flops = TrainingFlops(run, num_processes=num_processes)
    return RunCost(networks, flops.sources(settings.max_steps), settings, total_flops=flops.total(settings.max_steps))

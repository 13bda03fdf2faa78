"""A network with its optimizer, gradient scaler and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from toolkit.config import ConfigError
from toolkit.layers import mean_over_processes, sum_over_processes
from toolkit.training.settings import Settings


class NetworkHandle:
    """A network in a training step; ``wrapped`` is its data-parallel wrapper, or the network itself without one."""

    def __init__(self, network: nn.Module):
        self.network = self.wrapped = network

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss."""
        loss.backward()


class OptimizerState(NetworkHandle):
    """The optimizer, gradient scaler and learning rate schedule of a network, with the network and its wrapper.

    The optimizer also updates ``extra``: parameters of other modules, such as those of losses.
    """

    def __init__(self, network: nn.Module, *, learning_rate: float, settings: Settings, accelerator: Accelerator,
                 max_norm: float | None = None, extra: Iterable[nn.Parameter] = ()):
        super().__init__(network)
        for parameter in network.parameters():
            if parameter.dim() == 5:  # a Conv3d kernel; activations have this memory layout
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        self.wrapped = accelerator.prepare(network)
        self.max_norm = math.inf if max_norm is None else max_norm
        # Remove accelerate's autocast around forward: step.py enters autocast itself.
        network.__dict__.pop("forward", None)
        self.extra = [parameter for parameter in extra if parameter.requires_grad]
        parameters = [p for p in network.parameters() if p.requires_grad] + self.extra
        self.optimizer, self.options = create_optimizer(parameters, settings, learning_rate=learning_rate)
        # One scaler per network: the first network's step must not change the scale of the second's gradients.
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.mixed_precision == "fp16")
        self.schedule = create_schedule(self.optimizer, settings)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last optimizer step."""
        return self.optimizer.param_groups[0]["lr"]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss."""
        self.scaler.scale(loss).backward()

    def clip_gradients(self) -> Tensor:
        """Average ``extra``'s gradients, unscale and clip all; returns the norm before clipping. Call it once per step.

        In fp16 a nonfinite norm at a scale above 1 counts as 0: the scaler skips the step and halves its scale.
        """
        self._average_extra()
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.max_norm)
        return norm.nan_to_num(0.0, 0.0) if self.scaler.get_scale() > 1 else norm

    @torch.no_grad()
    def _average_extra(self) -> None:
        """Average the gradients of the extra parameters over processes, as the wrapper does for the network's.

        Parameters that have no gradient on any process, as those of a loss of weight 0, are skipped.
        """
        if not self.extra:
            return
        has_gradient = torch.tensor([float(p.grad is not None) for p in self.extra], device=self.extra[0].device)
        for parameter, count in zip(self.extra, sum_over_processes(has_gradient).tolist(), strict=True):
            if count:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = mean_over_processes(gradient)

    def skip(self) -> None:
        """Clear the gradients and update the gradient scaler; the weights do not change."""
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def update(self, step: int) -> None:
        """Update the weights with the learning rate of optimizer step ``step``, and clear the gradients."""
        if self.schedule is not None:
            self.schedule.step_update(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """State of optimizer and scaler; the schedule has none, it is a function of the step."""
        return {"type": type(self.optimizer).__name__, "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; options and a constant learning rate stay those of the config.

        The state of another type of optimizer raises a ConfigError.
        """
        if state["type"] != type(self.optimizer).__name__:
            raise ConfigError(f"training.optimizer.opt must be that of the checkpoint, {state['type']}, got "
                              f"{type(self.optimizer).__name__}; set it back, or start from the weights by "
                              "training.init_from.")
        configured = {key: value for key, value in self.optimizer.param_groups[0].items()
                      if key in self.options or (key == "lr" and self.schedule is None)}
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0].update(configured)
        self.scaler.load_state_dict(state["scaler"])


def create_optimizer(parameters: list[nn.Parameter], settings: Settings, *, learning_rate: float,
                     ) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """timm's optimizer with one parameter group, and its options; timm drops an unsupported eps or betas."""
    config = {"opt": "adam", **settings.optimizer}
    if not isinstance(config["opt"], str):
        raise ConfigError(f"training.optimizer.opt is the name of an optimizer, got {config['opt']!r}.")
    try:
        info = get_optimizer_info(config["opt"].lower().rpartition("_")[2])  # without "lookahead_"
    except ValueError as error:
        raise ConfigError(f"training.optimizer.opt must be one of timm.optim.list_optimizers(): {error}.") from None
    options = {"eps": settings.eps, "weight_decay": settings.weight_decay}
    if info.num_betas == len(settings.betas):
        options["betas"] = tuple(settings.betas)
    if info.opt_class in (torch.optim.Adam, torch.optim.AdamW):
        options["fused"] = True
    options |= config
    try:
        return create_optimizer_v2(parameters, lr=learning_rate, **options), options
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError(f"training.optimizer={options} does not fit: {error}.") from error


def create_schedule(optimizer: torch.optim.Optimizer, settings: Settings) -> Scheduler | None:
    """timm's learning rate schedule, with one of timm's epochs per optimizer step; None for a constant rate.

    :class:`OptimizerState` steps it: a scheduler prepared by accelerate would step once per process.
    """
    options = dict(sched="cosine", num_epochs=settings.max_steps, warmup_epochs=settings.warmup_steps, warmup_lr=0.0,
                   min_lr=settings.min_learning_rate) | dict(settings.schedule)
    try:
        schedule = create_scheduler_v2(optimizer, **options, step_on_epochs=False, updates_per_epoch=1)[0]
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"training.schedule={options} does not fit timm's create_scheduler_v2: {error}.") from error
    if schedule is None and options["warmup_epochs"]:
        raise ConfigError(f"training.schedule.sched={options['sched']!r} has no warm-up, got warmup_steps="
                          f"{options['warmup_epochs']}; set it to 0, or choose another schedule.")
    return schedule


def optimizer_state_ratio(settings: Settings) -> float:
    """Bytes of optimizer state per byte of gradient: 2 for Adam, 1 for SGD with momentum."""
    weight = nn.Parameter(torch.zeros(256, 256))
    optimizer, _ = create_optimizer([weight], settings, learning_rate=settings.learning_rate)
    create_schedule(optimizer, settings)  # raises a ConfigError for a wrong schedule
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return sum(value.nbytes for value in optimizer.state[weight].values()
               if isinstance(value, torch.Tensor) and value.ndim) / weight.nbytes

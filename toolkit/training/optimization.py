"""A network with what trains it: its optimizer and the schedule of its learning rate."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from torch import nn

from toolkit.training.settings import Settings


class Trained:
    """A module, wrapped for its processes, with Adam and warm-up + cosine.

    Args:
        module: The plain network.
        learning_rate: After the warm-up.
        settings: The rest of the schedule.
        accelerator: Places and wraps the module and its optimizer.

    Attributes:
        plain: The network itself.
        module: The network to call in training.
    """

    def __init__(self, module: nn.Module, *, learning_rate: float, settings: Settings, accelerator: Accelerator):
        optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, betas=tuple(settings.betas),
                                     eps=settings.eps, weight_decay=settings.weight_decay, fused=True)
        self.plain = module
        # Built before the optimizer is wrapped, and stepped by hand once per optimizer step: a
        # prepared scheduler would step once per process.
        self.schedule = CosineLRScheduler(
            optimizer, t_initial=settings.max_steps, lr_min=settings.min_learning_rate, t_in_epochs=False,
            warmup_t=settings.warmup_steps)
        self.module, self.optimizer = accelerator.prepare(module, optimizer)

    @property
    def learning_rate(self) -> float:
        """Of the last step taken."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, step: int) -> None:
        """Update the weights with the rate of optimizer step ``step``, and clear the gradients."""
        self.schedule.step_update(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state; the schedule is a function of the step."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state)

"""A network with what trains it: its optimizer, gradient scaling and the schedule of its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from toolkit.training.settings import Settings


class OptimizerState:
    """A module, wrapped for its processes, with Adam and warm-up + cosine.

    Args:
        module: The plain network.
        learning_rate: After the warm-up.
        max_norm: Of the gradient, see :meth:`gradient_norm`.
        settings: The rest of the schedule.
        accelerator: Places the module and wraps it for its processes.

    Attributes:
        plain: The network itself.
        module: The network to call in training.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> trained = OptimizerState(layer, learning_rate=0.1, settings=Settings(max_steps=10),
        ...                   accelerator=Accelerator(cpu=True))
        >>> before = layer.weight.item()
        >>> trained.backward(layer(torch.ones(1, 1)).sum()); trained.step(0)
        >>> round(before - layer.weight.item(), 4)   # Adam's first step is the learning rate
        0.1
    """

    def __init__(self, module: nn.Module, *, learning_rate: float, settings: Settings, accelerator: Accelerator,
                 max_norm: float = math.inf):
        for parameter in module.parameters():
            if parameter.dim() == 5:  # the layout of the activations; foreign networks also have 2-D kernels
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        self.plain, self.module, self.max_norm = module, accelerator.prepare(module), max_norm
        # accelerate puts autocast around forward for good; the trainer enters it where it is wanted.
        module.__dict__.pop("forward", None)
        self.optimizer = torch.optim.Adam(
            [p for p in module.parameters() if p.requires_grad], lr=learning_rate, betas=tuple(settings.betas),
            eps=settings.eps, weight_decay=settings.weight_decay, fused=True)
        # One scaler per network: with a shared one, the first network's step would change the scale
        # under the second's gradients.
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.mixed_precision == "fp16")
        # Stepped by hand once per optimizer step: a prepared scheduler would step once per process.
        self.schedule = CosineLRScheduler(
            self.optimizer, t_initial=settings.max_steps, lr_min=settings.min_learning_rate, t_in_epochs=False,
            warmup_t=settings.warmup_steps)

    @property
    def learning_rate(self) -> float:
        """Of the last step taken."""
        return self.optimizer.param_groups[0]["lr"]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a () loss."""
        self.scaler.scale(loss).backward()

    def gradient_norm(self) -> Tensor:
        """The () norm of the whole gradient, which is then clipped to ``max_norm``; once per step.

        In fp16 the gradient scaler leaves out steps whose gradients overflow, and halves its scale: then 0. What is
        not finite without being scaled up is no overflow.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], self.max_norm)
        return norm.nan_to_num(0.0, 0.0) if self.scaler.is_enabled() and self.scaler.get_scale() > 1 else norm

    def skip(self) -> None:
        """Clear the gradients; nothing else changes."""
        if self.scaler.is_enabled():
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, step: int) -> None:
        """Update the weights with the rate of optimizer step ``step``, and clear the gradients."""
        self.schedule.step_update(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's and the scaler's state; the schedule is a function of the step."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        settings = [{key: group[key] for key in ("betas", "eps", "weight_decay")}
                    for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, ours in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(ours)  # the config's, as its learning rate is; the saved ones may be older
        self.scaler.load_state_dict(state["scaler"])

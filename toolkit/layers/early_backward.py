"""Losses whose gradient is computed in the forward pass, so that their graph is freed early."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def loss_with_early_gradient(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The () loss ``function(*tensors)``; its graph is freed before it returns, and only ``tensors`` get a gradient.

    The gradient is stored for the backward pass. It has the size of ``tensors``; the graph of a VGG is many times
    larger. In fp16 the graph is kept, because the gradient scale is not known yet. Not twice differentiable.
    """
    device = tensors[0].device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if half or not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return function(*tensors)
    return _LossWithEarlyGradient.apply(function, *tensors)


class _LossWithEarlyGradient(torch.autograd.Function):

    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad():
            value = function(*leaves)
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = iter(torch.autograd.grad(value, inputs, allow_unused=True) if value.requires_grad
                         else [None] * len(inputs))
        ctx.save_for_backward(*(next(gradients) if leaf.requires_grad else None for leaf in leaves))
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(None if saved is None else saved * gradient for saved in ctx.saved_tensors)

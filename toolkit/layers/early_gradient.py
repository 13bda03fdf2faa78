"""Losses whose gradient is computed in the forward pass, so that their graph is freed early."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def loss_with_early_gradient(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The scalar ``function(*tensors)``. Its graph is freed before the call returns; only ``tensors`` get a gradient.

    The stored gradient is far smaller than the graph of a perceptual loss. Not twice differentiable. In fp16 autocast
    this is the plain call, with gradients to parameters too, because the gradient scale is not known yet.
    """
    device = tensors[0].device.type
    fp16 = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if fp16 or not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return function(*tensors)
    return _LossWithEarlyGradient.apply(function, *tensors)


class _LossWithEarlyGradient(torch.autograd.Function):

    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad():
            value = function(*leaves)
        differentiable = [leaf for leaf in leaves if leaf.requires_grad]  # the others get None
        gradients = iter(torch.autograd.grad(value, differentiable, allow_unused=True) if value.requires_grad
                         else [None] * len(differentiable))
        ctx.save_for_backward(*(next(gradients) if leaf.requires_grad else None for leaf in leaves))
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(None if saved is None else saved * gradient for saved in ctx.saved_tensors)

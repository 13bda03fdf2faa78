"""Losses that take their gradient at once, so that only one graph of a frozen network is alive at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def eager_loss(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, whose graph is gone when it returns; the gradient is the same.

    The gradient by the tensors is computed along with the value, and only it is kept for the backward
    pass: a clip's pixels in place of what a VGG or a discriminator stored. In fp16, where gradients
    would be computed before their scale is known, the graph stays.

    Args:
        function: Of tensors, to a () loss; what else it depends on gets no gradient.
        tensors: Those a gradient is wanted by; the function sees them detached.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> eager_loss(lambda x: x.square().sum(), x).backward()
        >>> x.grad.tolist()
        [2.0, 4.0]
    """
    device = tensors[0].device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if half or not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return function(*tensors)
    return _Eager.apply(function, *tensors)


class _Eager(torch.autograd.Function):

    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad():
            value = function(*leaves)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(value, wanted, allow_unused=True) if value.requires_grad else [None] * len(wanted)
        gradients = iter(found)
        ctx.save_for_backward(*(next(gradients) if leaf.requires_grad else None for leaf in leaves))
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(None if saved is None else saved * gradient for saved in ctx.saved_tensors)

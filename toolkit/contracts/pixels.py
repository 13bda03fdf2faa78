"""Checks of the tensors that users pass: pixels of a float dtype, finite and about [-1, 1]; finite values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

# Largest |x| of the pixels that a network takes. Bicubic resizing of [-1, 1] reaches at most 1.375^2 = 1.9, since the
# absolute weights of its kernel add up to 1.375; noise of unit variance reaches about 6, and 0 to 255 goes far beyond.
PIXEL_LIMIT = 8.0
# The output of an untrained network may have any values. It is taken for pixels of 0 to 255 if all values are within
# BYTE_MARGIN of [0, 255], the largest is above MIN_BYTE_MAX, and their mean is above MIN_BYTE_MEAN or all are whole
# numbers of at least 0.
MIN_BYTE_MEAN, MIN_BYTE_MAX, BYTE_MARGIN = 30.0, 8.0, 45.0


def check_float_pixels(who: str, pixels: Any, *, role: str = "") -> None:
    """Raise ValueError unless ``pixels`` is a tensor of a float dtype; its values are not read.

    Args:
        who: Name of what takes the pixels.
        pixels: What the user passed.
        role: Follows "pixels in [-1, 1]" in the message, such as " as target".

    Example:
        >>> check_float_pixels("PSNR", torch.zeros(1, dtype=torch.uint8))
        Traceback (most recent call last):
        ValueError: PSNR takes float pixels in [-1, 1], got torch.uint8; x / 127.5 - 1 converts 0 to 255.
    """
    takes = f"{who} takes float pixels in [-1, 1]{role}"
    if not isinstance(pixels, Tensor):
        kind, dtype = type(pixels), getattr(pixels, "dtype", None)
        raise ValueError(f"{takes}, got {kind.__module__}.{kind.__qualname__}{f' of {dtype}' if dtype else ''}; make "
                         "a torch.Tensor by torch.as_tensor(x), and x / 127.5 - 1 converts 0 to 255.")
    if not pixels.is_floating_point():
        do = "x * 2.0 - 1 converts a mask" if pixels.dtype == torch.bool else "x / 127.5 - 1 converts 0 to 255"
        raise ValueError(f"{takes}, got {pixels.dtype}; {do}.")


def check_pixel_values(who: str, pixels: Tensor, *, role: str = "", limit: float = PIXEL_LIMIT) -> None:
    """Raise ValueError if a pixel is NaN, infinite or beyond +-``limit``; pixels without :func:`has_values` pass.

    Example:
        >>> check_pixel_values("PSNR", torch.tensor([0.0, 255.0]))
        Traceback (most recent call last):
        ValueError: PSNR takes float pixels in [-1, 1], got 0 to 255; x / 127.5 - 1 converts 0 to 255, ...
    """
    if not has_values(pixels):
        return
    low, high = extremes(pixels)
    if -limit <= low and high <= limit:
        return
    check_finite(pixels, f"{who} needs finite pixels{role}", "read them again and look at how they were scaled")
    raise ValueError(f"{who} takes float pixels in [-1, 1]{role}, got {low:.4g} to {high:.4g}; x / 127.5 - 1 converts "
                     "0 to 255, and x.clamp(-1, 1) removes what resizing left outside.")


def check_not_bytes(who: str, pixels: Tensor, *, role: str = "") -> None:
    """Raise ValueError if the output of a network looks like pixels of 0 to 255; other values of any size pass.

    Example:
        >>> check_not_bytes("PSNR", torch.tensor([0.0, 255.0]))
        Traceback (most recent call last):
        ValueError: PSNR takes float pixels of about [-1, 1], got 0 to 255, 127.5 on average; ...
    """
    low, high = extremes(pixels)
    if not (low > -BYTE_MARGIN and MIN_BYTE_MAX < high < 255 + BYTE_MARGIN):
        return
    if pixels.mean() > MIN_BYTE_MEAN or (low >= 0 and (pixels == pixels.round()).all()):
        raise ValueError(f"{who} takes float pixels of about [-1, 1]{role}, got {low:.4g} to {high:.4g}, "
                         f"{float(pixels.mean()):.4g} on average; x / 127.5 - 1 converts 0 to 255.")


def check_dtype(takes: str, values: Tensor, network: nn.Module, *, name: str, autocast: bool = False) -> None:
    """Raise ValueError unless some weight has the dtype and device of ``values``; a network may have several dtypes.

    Args:
        takes: The start of the message, such as "Tokenizer.decode takes codes".
        values: The network's input.
        network: Any; one without weights takes all inputs.
        name: Of the values, in the advice.
        autocast: Whether the network runs under the caller's autocast, which converts all but float64.

    Example:
        >>> check_dtype("Net takes x", torch.zeros(1).double(), nn.Linear(1, 1), name="x")
        Traceback (most recent call last):
        ValueError: Net takes x of the weights' dtype on their device, torch.float32 on cpu, got torch.float64 ...
    """
    device = values.device.type
    any_dtype = (autocast and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
                 and values.dtype != torch.float64)
    first = next(network.parameters(), None)
    if first is None or any(weight.device == values.device and (any_dtype or weight.dtype == values.dtype)
                            for weight in network.parameters()):
        return
    do = "float()" if first.dtype == torch.float32 else f"to({first.dtype})"
    if first.device != values.device:
        do = f"to({str(first.device)!r}, {first.dtype})"
    raise ValueError(f"{takes} of the weights' dtype on their device, {first.dtype} on {first.device}, got "
                     f"{values.dtype} on {values.device}; convert them by {name}.{do}.")


def check_finite(values: Tensor, needs: str, advice: str) -> None:
    """Raise ValueError if there is NaN or infinity; the message is ``needs``, the number of them, and ``advice``.

    Example:
        >>> check_finite(torch.tensor([0.0, math.inf]), "Tokenizer needs finite latents", "look at the weights")
        Traceback (most recent call last):
        ValueError: Tokenizer needs finite latents, got NaN or infinity in 1 of 2 elements; look at the weights.
    """
    low, high = extremes(values)
    if not (-math.inf < low and high < math.inf):
        count = int((~values.isfinite()).sum())
        raise ValueError(f"{needs}, got NaN or infinity in {count} of {values.numel()} elements; {advice}.")


def extremes(values: Tensor) -> tuple[float, float]:
    """The smallest and the largest value, in one pass. NaN if any value is NaN, 0 if the tensor is empty.

    Example:
        >>> extremes(torch.tensor([3.0, -1.0, 2.0]))
        (-1.0, 3.0)
    """
    if not values.numel():
        return 0.0, 0.0
    low, high = torch.stack(torch.aminmax(values.detach())).tolist()  # one copy from a GPU
    return low, high


def describe(value: Any) -> str:
    """Shape and dtype of a tensor, the type of anything else.

    Example:
        >>> describe(torch.zeros(2)), describe([0.0, 0.0])
        ('(2,) of torch.float32', 'list')
    """
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__qualname__


def has_values(tensor: Tensor) -> bool:
    """Whether Python may read the numbers: not on the meta device, in a compiler's trace, or in a CUDA graph's capture.

    Example:
        >>> has_values(torch.zeros(1)), has_values(torch.zeros(1, device="meta"))
        (True, False)
    """
    return not (torch.compiler.is_compiling() or tensor.is_meta or isinstance(tensor, FakeTensor)
                or (tensor.is_cuda and torch.cuda.is_current_stream_capturing()))

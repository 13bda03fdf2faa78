"""2-D convolutions whose kernels are brought into the CPU library's own order once, not at every call.

A single frame through a wide network is little work per weight, so that reading and reordering the weights
would take a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Outside the modules, so that copying, saving and moving them know nothing of it.
_PACKED: WeakKeyDictionary[nn.Module, tuple[tuple, Tensor]] = WeakKeyDictionary()


def convolve_frames(conv: nn.Conv3d, frames: Tensor, make_kernel: Callable[[], Tensor], bias: Tensor | None, *,
                    kept: object) -> Tensor:
    """``F.conv2d(frames, make_kernel(), bias)`` with the stride and padding of ``conv``.

    Args:
        conv: Whose weight the kernel is made of; while that is the same, so is the packed kernel.
        frames: (N, in, H, W).
        make_kernel: Makes the kernel (out, in, k_h, k_w).
        bias: (out,) or None.
        kept: What else the kernel depends on; of several, the last one's is kept. None keeps none.

    Example:
        >>> conv = nn.Conv3d(2, 3, (1, 3, 3)).eval()
        >>> with torch.no_grad():
        ...     frames = convolve_frames(conv, torch.zeros(1, 2, 4, 4), lambda: conv.weight[:, :, 0], None, kept="all")
        >>> frames.shape
        torch.Size([1, 3, 2, 2])
    """
    stride, padding, dilation = conv.stride[1:], conv.padding[1:], conv.dilation[1:]
    if kept is None or not _can_pack(conv, frames):
        return F.conv2d(frames, make_kernel(), bias, stride, padding)
    state = conv.weight._version, conv.weight.data_ptr(), kept
    if conv not in _PACKED or _PACKED[conv][0] != state:
        kernel = make_kernel().contiguous(memory_format=torch.channels_last)
        _PACKED[conv] = state, torch.ops.mkldnn._reorder_convolution_weight(kernel, padding, stride, dilation, 1, [])
    return torch.ops.mkldnn._convolution_pointwise(frames, _PACKED[conv][1], bias, padding, stride, dilation, 1, "none",
                                                   [], "")


def _can_pack(conv: nn.Conv3d, frames: Tensor) -> bool:
    return (not conv.training and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
            and frames.device.type == "cpu" and frames.dtype == conv.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.enabled
            and torch.backends.mkldnn.is_available())

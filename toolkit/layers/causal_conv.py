"""Causal 3-D convolution: a frame sees itself and earlier frames only (MAGVIT-v2, arXiv:2310.05737, sec. 3.2).

Nothing is padded in time. The first outputs, which see less of the clip than the kernel is long, are
convolutions of their own with as much of the kernel as meets a frame, so no zero is multiplied, and an
image costs a 2-D convolution. Training stores what goes in, not what a norm and SiLU make of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from toolkit.layers.frames import clip_to_frames, frames_to_clip
from toolkit.layers.packed import convolve_frames

StreamCache = dict[nn.Module, tuple[Tensor, int]]
PADDINGS = ("zeros", "replicate")
ALL = slice(None)
# Of what is computed at once. Below it the C library reuses memory; above, the system hands out fresh pages each time,
# and on a CPU that takes as long as a norm.
PIECE_BYTES = 28 * 2**20
SLOW_3D = 20480  # entries of (B, C, T, H) up to which torch on a CPU takes the slow way to convolve in 3-D


class Window(NamedTuple):
    """Consecutive outputs from ``first`` on: of the frames ``begin`` to ``end``, under the kernel's last ``taps``.

    Example:
        >>> Window(first=1, begin=0, end=2, taps=2).taps
        2
    """

    first: int
    begin: int
    end: int
    taps: int


class Piece(NamedTuple):
    """The frames from ``begin`` on of an output (B, C, T, H, W) that has ``count`` in all.

    Example:
        >>> Piece(begin=0, count=5, output=torch.zeros(1, 4, 1, 2, 2)).count
        5
    """

    begin: int
    count: int
    output: Tensor


class CausalConv3d(nn.Conv3d):
    """Convolution padded in time before the first frame only, in space on all sides.

    Time is as if padded with ``k_t - 1`` frames, so T frames become ``1 + (T - 1) // s_t`` and the first
    frame always stands alone. Space is padded with ``(k - 1) // 2`` before and ``k // 2`` after, so
    a stride of 2 halves an even side with a kernel of 3 as with one of 4.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: (k_t, k_h, k_w).
        stride: (s_t, s_h, s_w).
        bias: Whether to add a bias.
        padding: "zeros", or "replicate" to repeat the first frame and the border (Google's code).

    Raises:
        ValueError: If ``padding`` is another one.

    Example:
        >>> conv = CausalConv3d(3, 8, kernel_size=(3, 3, 3), stride=(2, 2, 2))
        >>> conv(torch.zeros(1, 3, 5, 16, 16)).shape
        torch.Size([1, 8, 3, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: tuple[int, int, int],
                 stride: tuple[int, int, int] = (1, 1, 1), bias: bool = True, padding: str = "zeros"):
        if padding not in PADDINGS:
            raise ValueError(f"CausalConv3d pads with 'zeros' or 'replicate', got {padding!r}.")
        _, k_h, k_w = kernel_size
        # The convolution pads space itself, without a copy, where it can: with zeros, alike on both sides.
        by_itself = padding == "zeros" and k_h % 2 == k_w % 2 == 1
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias,
                         padding=(0, k_h // 2, k_w // 2) if by_itself else 0)
        self.to(memory_format=torch.channels_last_3d)  # so that a time slice of the kernel is cheap to take
        self.fill = "constant" if padding == "zeros" else "replicate"  # F.pad's word
        self.space = (0, 0, 0, 0) if by_itself else ((k_w - 1) // 2, k_w // 2, (k_h - 1) // 2, k_h // 2)

    def forward(self, x: Tensor, cache: StreamCache | None = None, *, norm: nn.Module | None = None,
                reuse: bool = False) -> Tensor:
        """(B, in, T, H, W) -> (B, out, T', H', W').

        Args:
            x: A clip, or with ``cache`` the next chunk of one, of any number of frames.
            cache: Where the convolution keeps the input frames that later chunks still need; one
                empty dict per stream. Chunks concatenated equal the whole clip's output.
            norm: The convolution is of ``silu(norm(x))``, which the backward pass computes again.
            reuse: Nobody needs ``x`` any more: where no gradients are wanted its memory may become the output's.
        """
        if not _in_place():
            return assemble(self.pieces(x, cache, norm=norm))
        x = self._activated(x, norm, reuse)
        own = cache is None and (reuse or norm is not None)
        return assemble(self.pieces(x, cache), into=x if own and self._fits_its_input() else None)

    def pieces(self, x: Tensor, cache: StreamCache | None = None, *, norm: nn.Module | None = None,
               first: slice = ALL) -> Iterator[Piece]:
        """As :meth:`forward`, the output in the pieces that are computed at once, which :func:`assemble` joins.

        Args:
            x, cache, norm: As :meth:`forward`'s.
            first: Which output channels of a clip's first frame are wanted.

        Yields:
            Consecutive outputs, a clip's end first; a chunk that completes none gives one piece of no frames.
        """
        if x.shape[2] == 0:  # in a stream, what a chunk that completed nothing becomes further on
            return iter([Piece(0, 0, self._nothing(x))])
        start = 1 - self.kernel_size[0]  # where the next output's window begins, before the clip
        if cache is not None:
            if norm is not None:
                x, norm = F.silu(norm(x)), None
            past, start = cache.get(self, (x[:, :, :0], start))
            x = torch.cat([past, x], dim=2)
            following = start + self._count(x.shape[2], start) * self.stride[0]
            kept = min(max(following, 0), x.shape[2])
            cache[self] = x[:, :, kept:].clone(), following - kept  # a view would keep the whole chunk alive
        count = self._count(x.shape[2], start)
        if not count:
            return iter([Piece(0, 0, self._nothing(x))])
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            parameters = [self.weight, self.bias, *(norm.parameters() if norm is not None else ())]
            found = _Convolution.apply(self, norm, start, first, x, *parameters)
            return iter([Piece(begin, count, piece) for begin, piece in zip((0, 1), found, strict=False)])
        return self._convolve(self._prepare(x, norm), start, first)

    def _fits_its_input(self) -> bool:
        """Whether an output may be written over its own frame: from a clip's end on, no window needs that again."""
        return set(self.stride) == {1} and not any(self.space)

    def _activated(self, x: Tensor, norm: nn.Module | None, reuse: bool) -> Tensor:
        """``silu(norm(x))`` a few frames at a time, if the norm allows it; without a norm ``x`` itself."""
        if norm is None:
            return x
        by_frame = 2 not in getattr(norm, "pooled_axes", (2,))
        if not by_frame or torch.is_autocast_enabled(x.device.type):  # which may change the type
            return F.silu(norm(x), inplace=True)
        result = x if reuse else torch.empty_like(x)
        for frames in slices(x.shape[2], x[:, :, :1]):
            torch.ops.aten.silu.out(norm(x[:, :, frames]), out=result[:, :, frames])
        return result

    def _count(self, frames: int, start: int) -> int:
        """Outputs whose windows end within ``frames``."""
        return max(0, (frames - start - self.kernel_size[0]) // self.stride[0] + 1)

    def _windows(self, frames: int, start: int) -> list[Window]:
        k_t, s_t, count = self.kernel_size[0], self.stride[0], self._count(frames, start)
        early = min(count, max(0, -(start // s_t)))  # outputs whose window begins before the clip
        windows = [Window(j, 0, start + j * s_t + k_t, start + j * s_t + k_t) for j in range(early)]
        if count > early:
            windows.append(Window(early, start + early * s_t, start + (count - 1) * s_t + k_t, k_t))
        return windows

    def _small_windows(self, x: Tensor, start: int) -> Iterator[Window]:
        """The windows from the last to the first, cut so that their outputs are small."""
        frame = self._nothing(x)
        for window in reversed(self._windows(x.shape[2], start)):
            outputs = (window.end - window.begin - window.taps) // self.stride[0] + 1
            for cut in reversed(slices(outputs, frame)) if outputs > 1 else [slice(0, 1)]:
                begin = window.begin + cut.start * self.stride[0]
                yield Window(window.first + cut.start, begin,
                             begin + (cut.stop - cut.start - 1) * self.stride[0] + window.taps, window.taps)

    def _prepare(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """What the convolutions see: activated, and padded in space if they cannot do that themselves."""
        if norm is not None:
            x = F.silu(norm(x))
        return self._padded(x)

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (*self.space, 0, 0), mode=self.fill) if any(self.space) else x

    def _kernel(self, weight: Tensor, taps: int) -> Tensor:
        """The kernel of a window that has only ``taps`` frames; the others are zeros, or equal to its first."""
        beyond = self.kernel_size[0] - taps
        if not beyond:
            return weight
        if self.fill == "constant":
            return weight[:, :, beyond:]
        return torch.cat([weight[:, :, :beyond + 1].sum(2, keepdim=True), weight[:, :, beyond + 1:]], dim=2)

    def _add_kernel_gradient(self, gradient: Tensor, of_kernel: Tensor, taps: int) -> None:
        """The transpose of :meth:`_kernel`, added to the weight's gradient."""
        beyond = self.kernel_size[0] - taps
        if self.fill == "constant":
            gradient[:, :, beyond:] += of_kernel
        else:
            gradient[:, :, :beyond + 1] += of_kernel[:, :, :1]
            gradient[:, :, beyond + 1:] += of_kernel[:, :, 1:]

    def _convolve(self, x: Tensor, start: int, first: slice) -> Iterator[Piece]:
        count, first = self._count(x.shape[2], start), self._of_first(x.shape[2], start, first)
        for window in self._small_windows(x, start):
            channels = ALL if window.first else first
            frames = x[:, :, window.begin:window.end]
            kernel = partial(self._kernel, self.weight[channels], window.taps)
            bias = None if self.bias is None else self.bias[channels]
            if self._is_flat(window, frames):
                flat = convolve_frames(self, _flat(frames, window.taps), lambda kernel=kernel: _flat_kernel(kernel()),
                                       bias, kept=channels if window.taps == 1 else None)
                yield Piece(window.first, count, _clip(flat, len(x)))
            else:
                yield Piece(window.first, count, F.conv3d(frames, kernel(), bias, self.stride, self.padding))

    def _of_first(self, frames: int, start: int, first: slice) -> slice:
        """The channels that a clip's first output has: ``first`` if it is computed by itself, else all."""
        return first if start + self.kernel_size[0] == 1 == self._windows(frames, start)[0].end else ALL

    def _is_flat(self, window: Window, frames: Tensor) -> bool:
        """Whether a 2-D convolution does it: of frames each by itself, or of small ones side by side."""
        alone = window.end - window.begin == window.taps
        if window.taps == 1:
            return alone or self.stride[0] == 1
        return alone and frames.device.type == "cpu" and frames[..., 0].numel() <= SLOW_3D

    def _gradients(self, x: Tensor, start: int, first: slice, gradients: tuple[Tensor, ...],
                   wanted: list[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of the input, the weight and the bias, from those of :meth:`_convolve`'s pieces."""
        dtype = gradients[0].dtype  # autocast's, where it is on
        x, weight = x.to(dtype), self.weight.to(dtype)
        found: list[Tensor | None] = [None, None, None]
        # The last window first: it has most frames, and all of the kernel if any has.
        windows, first = self._windows(x.shape[2], start), self._of_first(x.shape[2], start, first)
        alone = len(gradients) == 2  # the first frame's gradient, which has other channels
        for window in reversed(windows):
            if alone and window.first == 0:
                gradient = gradients[0]
            else:
                until = window.first + (window.end - window.begin - window.taps) // self.stride[0] + 1
                gradient = gradients[-1][:, :, window.first - alone:until - alone]
            channels = ALL if window.first else first
            of_window = self._window_gradients(x[:, :, window.begin:window.end], weight[channels], window, gradient,
                                               wanted)
            if all(total is None for total in found) and window.end - window.begin == x.shape[2] and (
                    window.taps == self.kernel_size[0] and channels == ALL):
                found = list(of_window)
                continue
            found = [torch.zeros_like(like) if total is None and wish else total for total, like, wish
                     in zip(found, (x, weight, self.bias), wanted, strict=True)]
            if wanted[0]:
                found[0][:, :, window.begin:window.end] += of_window[0]
            if wanted[1]:
                self._add_kernel_gradient(found[1][channels], of_window[1], window.taps)
            if wanted[2]:
                found[2][channels] += of_window[2]
        return tuple(found)

    def _window_gradients(self, frames: Tensor, weight: Tensor, window: Window, gradient: Tensor,
                          wanted: list[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        flat, kernel = self._is_flat(window, frames), self._kernel(weight, window.taps)
        samples, space = len(frames), slice(1 if flat else 0, None)
        if flat:
            frames, gradient, kernel = _flat(frames, window.taps), _flat(gradient), _flat_kernel(kernel)
        none = [0] * (kernel.ndim - 2)
        of_frames, of_kernel, of_bias = torch.ops.aten.convolution_backward(
            gradient, frames, kernel, [len(kernel)], self.stride[space], self.padding[space], self.dilation[space],
            False, none, 1, wanted)
        if flat:
            of_frames = _clip(of_frames, samples, window.taps) if wanted[0] else None
            of_kernel = of_kernel.unflatten(1, (window.taps, -1)).movedim(1, 2) if wanted[1] else None
        return of_frames, of_kernel, of_bias

    def _nothing(self, x: Tensor) -> Tensor:
        """No frames, of the output's other sizes."""
        sides = [(side + before + after + 2 * padding - kernel) // stride + 1
                 for side, before, after, padding, kernel, stride in zip(
                     x.shape[3:], self.space[2::-2], self.space[3::-2], self.padding[1:], self.kernel_size[1:],
                     self.stride[1:], strict=True)]
        return x.new_empty(len(x), self.out_channels, 0, *sides)


def assemble(pieces: Iterator[Piece], *, into: Tensor | None = None) -> Tensor:
    """The whole (B, C, T, H, W) of pieces in any order, in channels_last_3d.

    Args:
        pieces: Without gaps; drawn one at a time, and gone when the next is computed.
        into: Where they are written to if it has the right shape, and no gradients are wanted.

    Example:
        >>> pieces = [Piece(1, 4, torch.ones(1, 4, 3, 2, 2)), Piece(0, 4, torch.zeros(1, 4, 1, 2, 2))]
        >>> assemble(iter(pieces))[0, 0, :, 0, 0].tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    begin, count, output = next(pieces)
    if output.shape[2] == count:
        return output
    if not _in_place():
        parts = sorted([(begin, output), *((piece.begin, piece.output) for piece in pieces)], key=lambda part: part[0])
        return torch.cat([part.movedim(1, -1) for _, part in parts], dim=1).movedim(-1, 1)
    samples, channels, _, height, width = output.shape
    whole = into
    if into is None or into.shape != (samples, channels, count, height, width) or into.dtype != output.dtype:
        whole = output.new_empty(samples, count, height, width, channels).movedim(-1, 1)
    whole[:, :, begin:begin + output.shape[2]] = output
    del output
    for begin, _, output in pieces:
        whole[:, :, begin:begin + output.shape[2]] = output
    return whole


def slices(length: int, frame: Tensor) -> list[slice]:
    """Consecutive slices of ``length`` frames: on a CPU each of at most ``PIECE_BYTES``, elsewhere one of all.

    Example:
        >>> slices(5, torch.zeros(1, 2**20, 1, 2, 2))   # frames of 16 MiB
        [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    if frame.device.type != "cpu" or length < 2:
        return [slice(0, length)]
    samples, channels, _, height, width = frame.shape
    at_once = max(1, PIECE_BYTES // (samples * channels * height * width * frame.element_size()))
    at_once = -(-length // -(-length // at_once))  # all about as long
    return [slice(begin, min(begin + at_once, length)) for begin in range(0, length, at_once)]


def _in_place() -> bool:
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _flat(clip: Tensor, taps: int = 1) -> Tensor:
    """(B, C, T * taps, H, W) -> (B * T, taps * C, H, W); with one tap a view in channels_last_3d."""
    if taps == 1:
        return clip_to_frames(clip)
    return rearrange(clip, "b c (t k) h w -> (b t) h w (k c)", k=taps).movedim(-1, 1)


def _flat_kernel(kernel: Tensor) -> Tensor:
    """(out, in, taps, k_h, k_w) -> (out, taps * in, k_h, k_w)."""
    return kernel.squeeze(2) if kernel.shape[2] == 1 else kernel.movedim(2, 1).flatten(1, 2)


def _clip(frames: Tensor, samples: int, taps: int = 1) -> Tensor:
    """(B * T, taps * C, H, W) -> (B, C, T * taps, H, W); with one tap a view."""
    if taps == 1:
        return frames_to_clip(frames, samples)
    return rearrange(frames, "(b t) (k c) h w -> b (t k) h w c", b=samples, k=taps).movedim(-1, 1)


class _Convolution(torch.autograd.Function):
    """A causal convolution that stores its input alone and adds up its windows' gradients in place."""

    @staticmethod
    def forward(ctx, conv: CausalConv3d, norm: nn.Module | None, start: int, first: slice, x: Tensor,
                *parameters: Tensor | None) -> tuple[Tensor, ...]:
        ctx.of = conv, norm, start, first
        device = x.device.type
        ctx.autocast = dict(device_type=device, dtype=torch.get_autocast_dtype(device),
                            enabled=torch.is_autocast_enabled(device))
        ctx.save_for_backward(x, *parameters)
        prepared = conv._padded(conv._activated(x, norm, reuse=False))
        pieces = conv._convolve(prepared, start, first)
        if conv._of_first(x.shape[2], start, first) == ALL:
            own = norm is not None and start == 1 - conv.kernel_size[0] and conv._fits_its_input()
            return (assemble(pieces, into=prepared if own else None),)
        *rest, alone = pieces
        if not rest:
            return (alone.output,)
        return alone.output, assemble(Piece(begin - 1, count - 1, output) for begin, count, output in rest)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple:
        conv, norm, start, first = ctx.of
        x, *parameters = ctx.saved_tensors  # asked for all, so that autograd sees whether one was changed meanwhile
        of_input, of_weight, of_bias, *of_norm = ctx.needs_input_grad[4:]
        before = of_input or any(of_norm)
        leaf = x.detach().requires_grad_(before)
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            prepared = conv._prepare(leaf, norm)
        gradient, weight, bias = conv._gradients(prepared.detach(), start, first, gradients,
                                                 [before, of_weight, of_bias])
        if before and prepared is not leaf:
            wishes = of_input, *of_norm
            inputs = [tensor for tensor, wish in zip((leaf, *parameters[2:]), wishes, strict=True) if wish]
            found = iter(torch.autograd.grad(prepared, inputs, gradient.to(prepared.dtype)))
            gradient, *normal = (next(found) if wish else None for wish in wishes)
        else:
            normal = [None] * len(of_norm)
        return (None, None, None, None, gradient if gradient is None else gradient.to(x.dtype),
                weight if weight is None else weight.to(conv.weight.dtype),
                bias if bias is None else bias.to(conv.bias.dtype), *normal)

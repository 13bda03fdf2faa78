"""Patches of pixels as channels: space-to-depth and the Haar wavelet, invertible and causal in time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolkit.layers.causal_conv import StreamCache
from toolkit.layers.resample import check_multiples, depth_to_space, drop_frames, fill_groups, space_to_depth

ORTHONORMAL = 2**-0.5


def _triple(who: str, patch_size: int | tuple[int, int, int]) -> tuple[int, int, int]:
    """(p_t, p_h, p_w) of a patch size; a whole number p is (1, p, p)."""
    sides = [1, patch_size, patch_size] if isinstance(patch_size, int) else patch_size
    if not (isinstance(sides, list | tuple) and len(sides) == 3
            and all(isinstance(side, int) and side >= 1 for side in sides)):
        raise ValueError(f"{who} needs patch_size p or (p_t, p_h, p_w), whole numbers of at least 1, got "
                         f"{patch_size!r}.")
    return tuple(sides)


class SpaceToDepthPatching(nn.Module):
    """Each patch of pixels becomes the channels of one position; ``inverse`` undoes it.

    The first frame has patches of its own: it is repeated to p_t frames, and ``inverse`` drops the copies (Cosmos,
    arXiv:2501.03575). Output channels are ordered (p_t, p_h, p_w, C), C fastest.

    Args:
        patch_size: (p_t, p_h, p_w), or p for (1, p, p).

    Raises:
        ValueError: If the patch size is not one or three whole numbers of at least 1.

    Example:
        >>> patching = SpaceToDepthPatching((2, 4, 4))
        >>> patching(torch.zeros(1, 3, 5, 16, 16)).shape
        torch.Size([1, 96, 3, 4, 4])
        >>> patching.inverse(torch.zeros(1, 96, 3, 4, 4)).shape
        torch.Size([1, 3, 5, 16, 16])
    """

    def __init__(self, patch_size: int | tuple[int, int, int]):
        super().__init__()
        self.patch_size = _triple(type(self).__name__, patch_size)

    def forward(self, pixels: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, C, 1 + (t - 1) * p_t, h * p_h, w * p_w) -> (B, p_t * p_h * p_w * C, t, h, w).

        With ``cache``, a chunk of any number of frames -> the patches that it completes. Other sizes raise ValueError.
        """
        return space_to_depth(self._groups(pixels, cache), self.patch_size)

    def inverse(self, patches: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, p_t * p_h * p_w * C, t, h, w) -> (B, C, 1 + (t - 1) * p_t, h * p_h, w * p_w).

        With ``cache``, which is not that of ``forward``, the next chunk; later chunks have t * p_t frames.
        """
        return depth_to_space(patches, self.patch_size, self._begin_or_continue(patches, cache))

    def extra_repr(self) -> str:
        """The patch size, for ``print``."""
        return f"patch_size={self.patch_size}"

    def _groups(self, pixels: Tensor, cache: StreamCache | None) -> Tensor:
        return fill_groups(pixels, self.patch_size[0], module=self, cache=cache)

    def _begin_or_continue(self, patches: Tensor, cache: StreamCache | None) -> str:
        """Note in ``cache`` that the stream has begun. Frames to keep of the first patch: "last", later "all"."""
        if cache is None or patches.shape[2] == 0:
            return "last"
        kept_frame = "all" if self in cache else "last"
        cache[self] = patches.new_empty(0), 0  # marks the beginning of the stream
        return kept_frame


class HaarPatching(SpaceToDepthPatching):
    """Haar wavelet transform of patches, as in Cosmos (arXiv:2501.03575); ``inverse`` undoes it.

    A step along an axis maps neighbours (a, b) to low = scale * (a + b) and high = scale * (a - b). A level is a step
    along each axis. A patch side p has log2(p) levels; each transforms all bands of the previous level, which makes it
    a wavelet packet transform. Bands of a level are ordered LLL, LLH, LHL, ..., HHH with the letters time, row, column;
    an axis without a step has no letter. Output channels are ordered (band of the last level, ..., band of the first,
    C), C fastest. The first frame is repeated to p_t frames, as in :class:`SpaceToDepthPatching`.

    Cosmos has ``scale=0.5``, so that the lowest band is the patch's mean, and p_t = p_h = p_w in video networks. In
    its image networks the letters are column, row: transpose rows and columns before and after.

    Args:
        patch_size: (p_t, p_h, p_w), or p for (1, p, p); powers of two.
        scale: Factor of each step along an axis. The default makes the transform orthonormal: it keeps energy.

    Raises:
        ValueError: If a side of the patch is no power of two, or the scale is not a finite number above 0.

    Example:
        >>> pixels = torch.tensor([[3.0, 1.0], [2.0, 0.0]]).reshape(1, 1, 1, 2, 2)
        >>> bands = HaarPatching(2, scale=0.5)(pixels)
        >>> bands.flatten().tolist()   # the mean, then the differences of columns, of rows, of both
        [1.5, 1.0, 0.5, 0.0]
        >>> torch.equal(HaarPatching(2, scale=0.5).inverse(bands), pixels)
        True
    """

    def __init__(self, patch_size: int | tuple[int, int, int], *, scale: float = ORTHONORMAL):
        super().__init__(patch_size)
        if any(side & (side - 1) for side in self.patch_size):
            raise ValueError(f"HaarPatching needs a patch_size of powers of two, got {self.patch_size}; "
                             "SpaceToDepthPatching takes any.")
        if not 0 < scale < math.inf:
            raise ValueError(f"HaarPatching needs a finite scale above 0, got {scale!r}.")
        self.scale = scale
        levels = range(max(self.patch_size).bit_length() - 1)
        # Columns first: the axis that is concatenated last has the slowest letter.
        self._steps = [axis for level in levels for axis in (4, 3, 2) if self.patch_size[axis - 2] > 2**level]

    def forward(self, pixels: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, C, 1 + (t - 1) * p_t, h * p_h, w * p_w) -> (B, p_t * p_h * p_w * C, t, h, w).

        With ``cache``, a chunk of any number of frames -> the bands that it completes. Other sizes raise ValueError.
        """
        if not self._steps:  # patches of one pixel
            return pixels
        x = self._groups(pixels, cache)
        check_multiples(x, self.patch_size, "HaarPatching")
        for axis in self._steps:
            first, second = x.unflatten(axis, (x.shape[axis] // 2, 2)).unbind(axis + 1)
            x = torch.cat([first + second, first - second], dim=1)
        return (x * self.scale**len(self._steps)).contiguous(memory_format=torch.channels_last_3d)

    def inverse(self, bands: Tensor, cache: StreamCache | None = None) -> Tensor:
        """(B, p_t * p_h * p_w * C, t, h, w) -> (B, C, 1 + (t - 1) * p_t, h * p_h, w * p_w).

        With ``cache``, which is not that of ``forward``, the next chunk; later chunks have t * p_t frames.
        """
        if not self._steps:
            return bands
        kept_frame, x = self._begin_or_continue(bands, cache), bands
        for axis in reversed(self._steps):
            low, high = x.chunk(2, dim=1)
            x = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)
        x = drop_frames(x, self.patch_size[0], kept_frame) * (2 * self.scale)**-len(self._steps)
        return x.contiguous(memory_format=torch.channels_last_3d)


PATCHINGS = {"haar": HaarPatching, "space_to_depth": SpaceToDepthPatching}

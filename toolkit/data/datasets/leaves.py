"""Drawing of dead leaves: opaque shapes that move over a clip and hide each other.

The pixels of all leaves in several frames are one flat array. Coverage is computed first, from front to back; colours
are computed only for visible pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from toolkit.data.datasets.leaf_tables import NUM_DIRECTIONS, gauges, texels

# Frames are drawn together up to this number of pixels: their arrays fit a core's cache, and pixel numbers 16 bits,
# which numpy sorts faster.
PIXELS_AT_ONCE = 2**15
GROUP = 1.5  # leaves are drawn together up to this area, in areas of the frames; hidden pixels are dropped in between
OPAQUE = 1e-4  # the least that a leaf lets through, for logarithms
VISIBLE = 1 / 512  # a share of a pixel below this is not drawn


class Appearance(NamedTuple):
    """Colours of leaves or of their pixels: arrays (k, N) float32.

    The values of a pixel at (u, v) are ``colour + (gradient . (u, v)) * shade + texture(u, v) * contrast``.
    """

    colour: np.ndarray  # (3, N)
    shade: np.ndarray  # (3, N)
    contrast: np.ndarray  # (3, N)
    gradient: np.ndarray  # (2, N)
    texture: np.ndarray  # (3, N) whole numbers: first texel in texels(), texels per side, and texels per row
    frequency: np.ndarray  # (2, N) texels per u and v
    origin: np.ndarray  # (2, N) texel at u = v = 0


@dataclass(frozen=True)
class Leaves:
    """N leaves in T frames, from front to back; the last one covers all frames.

    A leaf has its own coordinates (u, v). The gauge of its shape is below 1 inside, 1 at the edge.

    Attributes:
        shape: (N,) rows of :func:`toolkit.data.datasets.leaf_tables.gauges`.
        centre: (2, N, T) row and column, in pixels.
        to_leaf: (2, 2, N, T): (u, v) is this matrix times (row, column) - centre.
        extent: (2, N, T) half the height and half the width of the box around a leaf, in pixels.
        radius: (N, T) shortest distance from the centre to the edge, in pixels.
        appearance: Colours.
    """

    shape: np.ndarray
    centre: np.ndarray
    to_leaf: np.ndarray
    extent: np.ndarray
    radius: np.ndarray
    appearance: Appearance


# Columns of Boxes.records: (u, v) of the first pixel, their changes from a column to the next, radius in pixels, place
# of the shape in the flat gauges(), leaf, number of the first pixel in the frames drawn together, change per row.
U, V, RIGHT_U, RIGHT_V, RADIUS, ROW, LEAF, PIXEL, DOWN_U, DOWN_V = range(10)


class Boxes(NamedTuple):
    """Boxes of leaves in frames, ordered by leaf."""

    heights: np.ndarray  # rows
    widths: np.ndarray  # columns
    records: np.ndarray  # (boxes, 10) float32, columns U to DOWN_V; whole numbers below 2^24 are exact in float32


class Elements(NamedTuple):
    """Pixels of leaves, one element for each leaf in a pixel: arrays of one length."""

    pixel: np.ndarray  # number in the frames drawn together
    leaf: np.ndarray
    u: np.ndarray
    v: np.ndarray
    share: np.ndarray  # of the pixel that the leaf covers or, after :func:`_visible`, that is seen of the leaf


def draw(leaves: Leaves, *, size: tuple[int, int]) -> np.ndarray:
    """(3, T, H, W) float32, not clamped."""
    num_frames, (height, width) = leaves.radius.shape[1], size
    clip = np.empty((3, num_frames, height, width), np.float32)
    step = max(1, PIXELS_AT_ONCE // (height * width))
    for start in range(0, num_frames, step):
        frames = slice(start, min(start + step, num_frames))
        clip[:, frames] = _draw_frames(leaves, frames, size).reshape(3, -1, height, width)
    return clip


def _draw_frames(leaves: Leaves, frames: slice, size: tuple[int, int]) -> np.ndarray:
    """(3, pixels) of some frames."""
    remaining = np.ones((frames.stop - frames.start) * size[0] * size[1], np.float32)  # share not covered yet
    boxes = _boxes(leaves, frames, size)
    areas = np.cumsum(boxes.heights * boxes.widths)
    step = round(GROUP * len(remaining))
    ends = np.searchsorted(areas, range(0, areas[-1] + step, step), "right")
    visible = []
    for start, end in pairwise(ends):
        elements = _elements(Boxes(*(array[start:end] for array in boxes)), size[1], remaining)
        if len(elements.pixel):
            visible.append(_visible(elements, remaining))
        if remaining.max() < VISIBLE:
            break
    elements = Elements(*(np.concatenate(arrays) for arrays in zip(*visible, strict=True)))
    return np.stack([np.bincount(elements.pixel, values * elements.share, len(remaining))
                     for values in _colours(leaves.appearance, elements)])


def _boxes(leaves: Leaves, frames: slice, size: tuple[int, int]) -> Boxes:
    """The boxes of all leaves in some frames, cut at the edges of the frames; empty boxes are left out."""
    centre, extent = leaves.centre[:, :, frames], leaves.extent[:, :, frames]
    limits = np.array(size, np.float32).reshape(2, 1, 1)
    first = np.clip(np.ceil(centre - extent), 0, limits)
    counts = np.clip(np.floor(centre + extent) + 1, 0, limits) - first
    kept = np.flatnonzero(counts.min(0) > 0)
    leaf, frame = np.divmod(kept, frames.stop - frames.start)
    first, counts, from_centre = (array.reshape(2, -1)[:, kept] for array in (first, counts, first - centre))
    (down_u, right_u), (down_v, right_v) = leaves.to_leaf[:, :, :, frames].reshape(2, 2, -1)[:, :, kept]
    u = down_u * from_centre[0] + right_u * from_centre[1]
    v = down_v * from_centre[0] + right_v * from_centre[1]
    radius = leaves.radius[:, frames].reshape(-1)[kept]
    row = leaves.shape[leaf] * (NUM_DIRECTIONS + 1)
    pixel = (frame * size[0] + first[0]) * size[1] + first[1]
    records = np.stack([u, v, right_u, right_v, radius, row, leaf, pixel, down_u, down_v], axis=1, dtype=np.float32,
                       casting="same_kind")
    return Boxes(*counts.astype(np.int64), records)


def _elements(boxes: Boxes, width: int, remaining: np.ndarray) -> Elements:
    """The pixels that the leaves cover in part or all, where something remains to be covered."""
    box, row = _ranges(boxes.heights)
    rows, row = boxes.records.take(box, axis=0), row.astype(np.float32)
    rows[:, U] += row * rows[:, DOWN_U]
    rows[:, V] += row * rows[:, DOWN_V]
    first = rows[:, PIXEL].astype(np.int64) + (row * width).astype(np.int64)
    line, column = _ranges(boxes.widths.take(box))
    pixel = column + first.take(line)
    left = np.flatnonzero(remaining.take(pixel) > VISIBLE)
    column, pixel = column.take(left).astype(np.float32), pixel.take(left)
    u, v, right_u, right_v, radius, gauge_row, leaf, *_ = rows.take(line.take(left), axis=0).T
    u, v = u + right_u * column, v + right_v * column
    coverage = (1 - _gauge(u, v, gauge_row)) * radius + np.float32(0.5)  # the edge is one pixel wide
    covered = np.flatnonzero(coverage > 0)
    return Elements(pixel.take(covered), leaf.take(covered).astype(np.int64), u.take(covered), v.take(covered),
                    np.minimum(coverage.take(covered), 1))


def _ranges(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k and the i of all pairs with 0 <= i < counts[k], in order."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts).take(owner)


def _gauge(u: np.ndarray, v: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The gauges of (u, v): |u| + |v| times the gauge in that direction, from the flat table."""
    total = np.abs(u) + np.abs(v) + np.float32(1e-12)
    direction = 2 - np.copysign(1 + u / total, v)  # 0 to 4, once around
    place = (direction * np.float32(NUM_DIRECTIONS / 4)).astype(np.int64) + row.astype(np.int64)
    return total * gauges().ravel().take(place)


def _visible(elements: Elements, remaining: np.ndarray) -> Elements:
    """What is seen of elements that are ordered from front to back; updates ``remaining``."""
    order = np.argsort(elements.pixel.astype(np.min_scalar_type(len(remaining))), kind="stable")
    pixel, share = elements.pixel.take(order), elements.share.take(order)
    ends = np.append(np.flatnonzero(pixel[1:] != pixel[:-1]) + 1, len(pixel))  # of the elements of each pixel
    starts = np.append(0, ends[:-1])
    # what passes all leaves in front is a product, here a difference of sums of logarithms
    passed = np.log(np.maximum(1 - share, np.float32(OPAQUE)))
    total = np.cumsum(passed, dtype=np.float64)
    before = total - passed
    origin = before.take(starts)
    seen = np.exp((before - np.repeat(origin, ends - starts)).astype(np.float32)) * share * remaining.take(pixel)
    remaining[pixel.take(starts)] *= np.exp(total.take(ends - 1) - origin)
    kept = np.flatnonzero(seen > VISIBLE / 4)
    order = order.take(kept)
    return Elements(pixel.take(kept), *(array.take(order) for array in elements[1:4]), seen.take(kept))


def _colours(appearance: Appearance, elements: Elements) -> np.ndarray:
    """(3, elements)."""
    looks = Appearance(*(values.take(elements.leaf, axis=1) for values in appearance))
    shade = looks.gradient[0] * elements.u + looks.gradient[1] * elements.v
    return looks.colour + shade * looks.shade + _texture(looks, elements.u, elements.v) * looks.contrast


def _texture(looks: Appearance, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The values of the textures at (u, v), bilinear between texels."""
    first, side, pitch = looks.texture.astype(np.int64)
    (along_u, along_v), side = looks.frequency * (u, v) + looks.origin, side - 1  # sides are powers of 2
    row, column = np.floor(along_u), np.floor(along_v)
    along_u -= row
    along_v -= column
    place = first + (row.astype(np.int64) & side) * pitch + (column.astype(np.int64) & side)
    upper, lower = texels().take(place), texels().take(place + pitch)
    upper += along_v * (texels().take(place + 1) - upper)
    lower += along_v * (texels().take(place + pitch + 1) - lower)
    return upper + along_u * (lower - upper)

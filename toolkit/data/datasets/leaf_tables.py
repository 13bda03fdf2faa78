"""Tables for drawing leaves, made once per process: gauges of shapes, and textures that repeat."""

from __future__ import annotations

from functools import cache

import numpy as np

NUM_DIRECTIONS = 4096  # a quarter pixel at the edge of a leaf of 500 pixels
RECTANGLE = 0  # row of gauges()
NUM_TEXTURES = 26
LEVELS = (128, 64, 32, 16, 8)  # texels per side of a texture, from the finest level to the coarsest


@cache
def gauges() -> np.ndarray:
    """The gauge (Minkowski functional) of each shape in all directions, (shapes, NUM_DIRECTIONS + 1) float32.

    Rectangles, ellipses, superellipses and polygons, within [-1, 1]^2. A shape in several rows is more frequent.
    """
    u, v = _directions()
    rectangle, ellipse = np.maximum(np.abs(u), np.abs(v)), np.hypot(u, v)
    superellipses = [(np.abs(u)**power + np.abs(v)**power) ** (1 / power) for power in (0.8, 1.3, 3, 4, 6)]
    rng = np.random.default_rng(0)
    corners = [(3, 0), (3, 0.3), (5, 0), (6, 0), (4, 0.7), (4, 0.7), (5, 0.7), (5, 0.7), (6, 0.7), (7, 0.7)]
    polygons = [_polygon(u, v, 2 * np.pi * (np.arange(count) + jitter * (rng.random(count) - 0.5)) / count)
                for count, jitter in corners]
    return np.stack([*[rectangle] * 6, *[ellipse] * 6, *superellipses, *polygons]).astype(np.float32)


@cache
def edge_distances() -> tuple[np.ndarray, np.ndarray]:
    """The distances from the centre of each shape to the nearest and the farthest point of its edge, (shapes,) each."""
    distances = np.hypot(*_directions()).astype(np.float32) / gauges()
    return distances.min(1), distances.max(1)


def _directions() -> tuple[np.ndarray, np.ndarray]:
    """Points (u, v) with |u| + |v| = 1, once around from u = 1."""
    place = (np.arange(NUM_DIRECTIONS + 1) + 0.5) * 4 / NUM_DIRECTIONS
    u = np.where(place < 2, 1 - place, place - 3)
    return u, np.where(place < 2, 1, -1) * (1 - np.abs(u))


def _polygon(u: np.ndarray, v: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The gauge of a polygon that has its corners at increasing angles of the unit circle."""
    corners = np.exp(1j * angles)
    sides = np.roll(corners, -1) - corners
    normals = -1j * sides
    normals /= (normals * corners.conj()).real  # their product with a point of the side is 1
    return np.max([normal.real * u + normal.imag * v for normal in normals], axis=0)


@cache
def texels() -> np.ndarray:
    """All textures at all levels, flat float32, of mean 0 and variance 1 at the finest level.

    Noise with powers of 1/f, waves, stripes and a checkerboard. A tile of n x n texels ends with a copy of its first
    row and column.
    """
    finest = LEVELS[0]
    rng = np.random.default_rng(1)
    y, x = np.meshgrid(*[np.fft.fftfreq(finest)] * 2, indexing="ij")
    tiles = []
    for power, stretch in [*[(0.3, 1)] * 6, *[(0.6, 1)] * 8, *[(1.0, 1)] * 4, (0.6, 4), (0.8, 8)]:
        frequency = np.hypot(y, stretch * x)
        frequency[0, 0] = np.inf
        tiles.append(np.fft.ifft2(np.fft.fft2(rng.standard_normal((finest, finest))) / frequency**power).real)
    rows, columns = np.meshgrid(*[2 * np.pi * np.arange(finest) / finest] * 2, indexing="ij")
    tiles += [np.sin(a * rows + b * columns) for a, b in [(4, 0), (7, 0), (11, 0), (9, 4)]]
    tiles += [np.tanh(4 * np.sin(7 * rows)), np.tanh(6 * np.sin(4 * rows) * np.sin(4 * columns))]
    level = np.stack([(tile - tile.mean()) / tile.std() for tile in tiles])
    flat = []
    for side in LEVELS:
        flat.append(np.pad(level, ((0, 0), (0, 1), (0, 1)), mode="wrap").ravel())
        level = level.reshape(NUM_TEXTURES, side // 2, 2, side // 2, 2).mean((2, 4))
    return np.concatenate(flat).astype(np.float32)


def texture_places(texture: np.ndarray, level: np.ndarray) -> np.ndarray:
    """(3, N): the first texel, the texels per side and per row of textures (N,) at levels (N,)."""
    side = np.array(LEVELS)
    starts = np.cumsum(NUM_TEXTURES * (side + 1) ** 2) - NUM_TEXTURES * (side + 1) ** 2
    return np.stack([starts[level] + texture * (side[level] + 1) ** 2, side[level], side[level] + 1])

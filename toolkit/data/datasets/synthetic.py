"""Clips of moving dead leaves, made from random numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from toolkit.contracts import Dataset
from toolkit.data.datasets.camera import CameraPath, camera_path, smooth_paths
from toolkit.data.datasets.leaf_tables import LEVELS, NUM_TEXTURES, RECTANGLE, edge_distances, gauges, texture_places
from toolkit.data.datasets.leaves import Appearance, Leaves, draw
from toolkit.data.reading.transforms import frame_size
from toolkit.data.seeding import mix
from toolkit.registry import DATASETS

# Lengths are relative to the frame: its area is 1, so the unit of length is sqrt(H W) pixels.
RADII = 0.028, 0.6  # smallest and largest
# Radius of the last leaf, the background. It covers the longest frame (MAX_RATIO) wherever the camera moves.
BACKGROUND = 12.0
DENSITY = 0.8, 2.0  # area of all leaves over that of the frame, drawn for each clip
MARGIN = 0.25  # leaves farther from the frame are not drawn: few of them would come into sight
ASPECT = 0.4  # largest logarithm of the ratio of a leaf's longer half axis to its radius
PARALLAX = 1.6, 0.4  # shift per unit of the camera's pan: of the front leaf, and of the background
LEAF_SPEED, LEAF_TURN_SPEED = 0.02, 0.05  # largest motion of a leaf beside the camera's: per frame, radians per frame
ACTIVE_CLIPS = 0.8  # share of clips in which leaves move or turn at all
MOVING_LEAVES = 0.6  # share of the leaves of such a clip that move; the same for turning
TEXTURED_SHARE = 0.7  # of the leaves
TILES = 0.2, 1.2  # smallest and largest side of a texture's tile
MAX_PIXELS, MAX_RATIO = 2**24, 64  # of a frame: pixel numbers are float32, and the background has a size
NOISY_SHARE, NOISE = 0.5, 0.15  # share of clips with noise, and its largest standard deviation


def draw_radii(rng: np.random.Generator, count: int) -> np.ndarray:
    """(N,) radii with density r^-3 between the smallest and the largest (Lee, Mumford and Huang 2001)."""
    smallest, largest = RADII
    return (smallest**-2 - rng.random(count) * (smallest**-2 - largest**-2)) ** -0.5


def mean_square_radius() -> float:
    """The mean of r^2 under that density."""
    smallest, largest = RADII
    return 2 * np.log(largest / smallest) / (smallest**-2 - largest**-2)


@DATASETS.register_module()
class SyntheticClips(Dataset, torch.utils.data.Dataset):
    """Clips of moving dead leaves: opaque random shapes that hide each other (Lee, Mumford and Huang, IJCV 2001).

    Radii have the density r^-3, which gives the pictures the scale invariance of photos. Images of this kind train
    networks that work on photos (Baradad et al., arXiv:2106.05963); here the leaves move. Ellipses, rectangles,
    superellipses and polygons have colours from the whole gamut, gradients and textures. The camera pans, zooms and
    turns, and near leaves move more. Leaves move and turn by themselves. Some clips and some leaves are still, and
    half of the clips have noise. Sizes and speeds are relative to the frame.

    Clip n depends only on ``seed`` and n: it is the same in every process, order and batch. Another version of numpy
    may make other clips.

    Args:
        num_clips: Number of clips.
        num_frames: T of each clip. With 1 the modality is "image".
        size: H = W, or (H, W), in pixels.
        seed: Datasets with different seeds have different clips. Give validation another seed than training.

    Raises:
        ValueError: If a number is out of range or not whole.

    Example:
        >>> clips = SyntheticClips(num_clips=1000, num_frames=5, size=32)
        >>> len(clips), clips[7]["pixels"].shape, clips[7]["key"]
        (1000, torch.Size([3, 5, 32, 32]), 'synthetic/0/7')
    """

    def __init__(self, *, num_clips: int = 100_000, num_frames: int = 17, size: int | tuple[int, int] = 128,
                 seed: int = 0):
        if not all(isinstance(count, int) and count >= 1 for count in (num_clips, num_frames)):
            raise ValueError("SyntheticClips takes whole num_clips and num_frames of at least 1, got "
                             f"{num_clips} and {num_frames}.")
        if not isinstance(seed, int):
            raise ValueError(f"SyntheticClips takes a whole number as seed, got {seed!r}.")
        self.num_clips, self.num_frames, self.size, self.seed = num_clips, num_frames, frame_size(size), seed
        if math.prod(self.size) > MAX_PIXELS or max(self.size) > MAX_RATIO * min(self.size):
            raise ValueError(f"SyntheticClips takes a size of at most {MAX_PIXELS} pixels that is at most {MAX_RATIO} "
                             f"times as long as wide, got {self.size[0]} x {self.size[1]}.")
        self.modality = "image" if num_frames == 1 else "video"
        self.sample_size = (num_frames, *self.size)

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """{"pixels": (3, T, H, W) float32 in [-1, 1], "key": synthetic/seed/index}."""
        if not 0 <= index < self.num_clips:
            raise IndexError(f"SyntheticClips has {self.num_clips} clips, got index {index}.")
        rng = np.random.default_rng(mix(self.seed, "clip", int(index)))  # numpy's whole numbers have another repr
        clip = draw(random_leaves(rng, num_frames=self.num_frames, size=self.size), size=self.size)
        if rng.random() < NOISY_SHARE:
            clip += np.float32(NOISE * rng.random() ** 2) * rng.standard_normal(clip.shape, np.float32)
        return {"pixels": torch.from_numpy(np.clip(clip, -1, 1, out=clip)), "key": f"synthetic/{self.seed}/{index}"}


def random_leaves(rng: np.random.Generator, *, num_frames: int, size: tuple[int, int]) -> Leaves:
    """The leaves that are in sight in some frame of a clip, and a background behind them."""
    unit = np.sqrt(size[0] * size[1])  # pixels
    frame = np.array(size, np.float32) / unit
    camera = camera_path(rng, num_frames=num_frames)
    window = frame + 2 * RADII[1]  # of the centres: leaves on all sides may reach into the frame
    count = round(rng.uniform(*DENSITY) * window.prod() / (np.pi * mean_square_radius()))
    radius, parallax = _front_to_back(rng, draw_radii(rng, count))
    position = (window[:, None] * (rng.random((2, len(radius))) - 0.5)).astype(np.float32)
    near = np.flatnonzero((np.abs(position) - 2 * radius < frame[:, None] / 2 + MARGIN).all(0))
    radius, parallax, position = radius[near], parallax[near], position[:, near]
    moving = MOVING_LEAVES * (rng.random() < ACTIVE_CLIPS)
    centre = _centres(rng, position, parallax, camera, frame=frame, moving=moving)
    aspect = np.exp(rng.uniform(-ASPECT, ASPECT, len(radius))).astype(np.float32)
    axes = np.stack([radius * aspect, radius / aspect])
    reach = np.sqrt(2) * axes.max(0)[:, None] * np.exp(camera.zoom)
    seen = np.flatnonzero((np.abs(centre) - reach < frame[:, None, None] / 2).all(0).any(1))
    axes = axes[:, seen]
    geometry = _geometry(rng, axes, centre[:, seen], camera, size=size, moving=moving)
    return Leaves(*geometry, _appearance(rng, axes, unit=unit))


def _front_to_back(rng: np.random.Generator, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radii from front to back, with the background's last, and parallax. Larger leaves tend to be in front."""
    depth = rng.random(len(radius)) - 0.15 * np.log(radius / RADII[0]) / np.log(RADII[1] / RADII[0])
    parallax = np.linspace(*PARALLAX, len(radius) + 1, dtype=np.float32)
    return np.append(radius[np.argsort(depth)], BACKGROUND).astype(np.float32), parallax


def _centres(rng: np.random.Generator, position: np.ndarray, parallax: np.ndarray, camera: CameraPath, *,
             frame: np.ndarray, moving: float) -> np.ndarray:
    """The centres (2, N, T) as the camera sees them, from the middle of the frame."""
    count = len(parallax)
    speeds = LEAF_SPEED * parallax * rng.random((2, count)) * (rng.random(count) < moving)
    speeds[:, -1] = 0
    place = position[:, :, None] + smooth_paths(rng, speeds, num_frames=len(camera.zoom))
    row, column = place - parallax[:, None] * (frame[:, None] * camera.shift)[:, None]
    scale, sine, cosine = np.exp(camera.zoom), np.sin(camera.angle), np.cos(camera.angle)
    return np.stack([scale * (cosine * row - sine * column), scale * (sine * row + cosine * column)])


def _geometry(rng: np.random.Generator, axes: np.ndarray, centre: np.ndarray, camera: CameraPath, *,
              size: tuple[int, int], moving: float) -> tuple[np.ndarray, ...]:
    """The first five attributes of :class:`Leaves`."""
    count, num_frames = centre.shape[1:]
    unit = np.float32(np.sqrt(size[0] * size[1]))
    middle = (np.array(size, np.float32).reshape(2, 1, 1) - 1) / 2
    turns = LEAF_TURN_SPEED * rng.random(count) * (rng.random(count) < moving)
    turns[-1] = 0
    angle = (rng.uniform(0, 2 * np.pi, (count, 1)).astype(np.float32) + smooth_paths(rng, turns, num_frames=num_frames)
             + camera.angle)
    sine, cosine = np.sin(angle), np.cos(angle)
    a, b = axes[:, :, None] * unit * np.exp(camera.zoom)
    shape = rng.integers(len(gauges()), size=count)
    shape[-1] = RECTANGLE
    nearest, farthest = (distance[shape, None] for distance in edge_distances())
    radius = nearest * np.minimum(a, b)
    extent = np.stack([np.minimum(np.abs(cosine) * a + np.abs(sine) * b, farthest * np.hypot(cosine * a, sine * b)),
                       np.minimum(np.abs(sine) * a + np.abs(cosine) * b, farthest * np.hypot(sine * a, cosine * b))])
    to_leaf = np.stack([np.stack([cosine / a, sine / a]), np.stack([-sine / b, cosine / b])])
    return shape, centre * unit + middle, to_leaf, extent * (1 + 0.5 / radius), radius


def _appearance(rng: np.random.Generator, axes: np.ndarray, *, unit: float) -> Appearance:
    """Random colours, gradients and textures. Brightness and contrast are drawn once for the clip."""
    count = axes.shape[1]
    grey, chroma = rng.uniform(-1, 1, count), rng.uniform(-1, 1, (3, count))
    colour = grey + rng.random(count) * (chroma - chroma.mean(0))
    colour = np.clip(rng.normal(0, 0.15) + rng.uniform(0.4, 0.8) * colour, -1, 1)
    direction = rng.uniform(0, 2 * np.pi, count)
    gradient = 0.7 * rng.random(count) ** 2 * np.stack([np.cos(direction), np.sin(direction)])
    gradient[:, -1] *= BACKGROUND  # only its middle is in sight
    shade, contrast = rng.uniform(0.5, 1.5, (2, 3, count))
    contrast *= 0.8 * rng.random(count) * (rng.random(count) < TEXTURED_SHARE)
    tile = np.exp(rng.uniform(*np.log(TILES), count))
    level = np.clip(np.ceil(np.log2(LEVELS[0] / (tile * unit))), 0, len(LEVELS) - 1)  # a texel is at least a pixel
    texture = texture_places(rng.integers(NUM_TEXTURES, size=count), level.astype(np.int64))
    looks = Appearance(colour, shade, contrast, gradient, texture, axes / tile * texture[1],
                       rng.random((2, count)) * texture[1])
    return Appearance(*(array.astype(np.float32) for array in looks))

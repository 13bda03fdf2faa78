"""Smooth random motion of a camera and of objects."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PERIODS = 24.0, 64.0  # shortest and longest period of a sine wave of motion, in frames
PAN_SPEED, ZOOM_SPEED, TURN_SPEED = 0.03, 0.015, 0.02  # largest, per frame: frame sizes, log magnification, radians
STILL_CAMERA = 0.2  # probability that the camera does not move
MOTION = 0.6  # probability, otherwise, of each of pan, zoom and rotation


class CameraPath(NamedTuple):
    """Where a camera looks in each of T frames; all zero at the middle frame.

    ``shift`` is (2, T), rows and columns in sizes of the frame, ``zoom`` (T,) the logarithm of the magnification, and
    ``angle`` (T,) radians.
    """

    shift: np.ndarray
    zoom: np.ndarray
    angle: np.ndarray


def smooth_paths(rng: np.random.Generator, speeds: np.ndarray, *, num_frames: int) -> np.ndarray:
    """Paths (..., T) on sine waves of the given largest ``speeds`` (...) per frame; 0 at the middle frame."""
    rate = (2 * np.pi / rng.uniform(*PERIODS, (*speeds.shape, 1))).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, (*speeds.shape, 1)).astype(np.float32)
    times = np.arange(num_frames, dtype=np.float32) - num_frames // 2
    return speeds[..., None].astype(np.float32) / rate * (np.sin(rate * times + phase) - np.sin(phase))


def camera_path(rng: np.random.Generator, *, num_frames: int) -> CameraPath:
    """A random pan, zoom and rotation. Each may be absent, and slow ones are more frequent than fast ones."""
    pans, zooms, turns = (rng.random(3) < MOTION) & (rng.random() >= STILL_CAMERA)
    largest = np.array([pans * PAN_SPEED, pans * PAN_SPEED, zooms * ZOOM_SPEED, turns * TURN_SPEED])
    paths = smooth_paths(rng, largest * rng.random(4) ** 1.5, num_frames=num_frames)
    return CameraPath(paths[:2], paths[2], paths[3])

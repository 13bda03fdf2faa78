"""What metrics check: the clips of a batch, and which metrics may be merged."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from toolkit.contracts import Metric
from toolkit.contracts.pixels import check_float_pixels, check_not_bytes, check_pixel_values

ROUNDING = 0.01  # how far a target may be beyond [-1, 1]


def check_clips(metric: Metric, target: Tensor, reconstruction: Tensor) -> None:
    """Raise ValueError unless both are float clips of one size, the target in [-1, 1] and the other not 0 to 255.

    The target may be 0.01 out of range, for rounding. The reconstruction of an untrained network may have any values,
    so it is refused only if it looks like pixels of 0 to 255. :func:`clamped` handles all other values.
    """
    who = type(metric).__name__
    for clips, role in ((target, " as target"), (reconstruction, " as reconstruction")):
        check_float_pixels(who, clips, role=role)
    if target.shape != reconstruction.shape or target.ndim != 5:
        raise ValueError(f"{who} compares clips (B, C, T, H, W) of equal size, got {tuple(target.shape)} and "
                         f"{tuple(reconstruction.shape)}.")
    if 0 in target.shape[1:]:  # a batch of no clips is fine
        raise ValueError(f"{who} compares clips (B, C, T, H, W) with pixels, got {tuple(target.shape)}; drop them.")
    if target.device != reconstruction.device:
        raise ValueError(f"{who} compares clips on one device, got {target.device} and {reconstruction.device}; "
                         f"target.to({str(reconstruction.device)!r}) moves one.")
    check_pixel_values(who, target, role=" as target", limit=1 + ROUNDING)
    check_not_bytes(who, reconstruction, role=" as reconstruction")


def clamped(clips: Tensor) -> Tensor:
    """Clips of any float dtype -> float32 in [-1, 1], without a gradient; infinity becomes NaN, and NaN stays NaN."""
    clips = clips.detach().float()
    return clips.clamp(-1, 1).masked_fill(clips.isinf(), math.nan)


def check_mergeable(metric: Metric, others: Sequence[Metric]) -> None:
    """Raise ValueError unless all metrics are of one class and built with the same arguments."""
    for other in others:
        if type(other) is not type(metric) or other.config != metric.config:
            raise ValueError(f"{type(metric).__name__} merges with metrics like {metric.config}, got {other.config}.")

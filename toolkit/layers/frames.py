"""Reshape a clip to a batch of frames and back, without a copy in channels_last_3d.

A single frame is selected, not reshaped: a reshaped axis of length 1 gets strides that torch does not recognise as
channels_last, and every operation would copy the tensor.
"""

from __future__ import annotations

from torch import Tensor


def clip_to_frames(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    return clip.select(2, 0) if clip.shape[2] == 1 else clip.movedim(2, 1).flatten(0, 1)


def frames_to_clip(frames: Tensor, samples: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    return frames.unsqueeze(2) if len(frames) == samples else frames.unflatten(0, (samples, -1)).movedim(1, 2)

"""A clip as a batch of frames and back, without a copy in channels_last_3d.

Of a single frame too: reshaping would give the axes of length 1 strides by which torch no longer takes the
tensor for channels_last, and every operation would copy it.
"""

from __future__ import annotations

from torch import Tensor


def clip_to_frames(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W).

    Example:
        >>> import torch
        >>> clip = torch.zeros(1, 4, 1, 2, 2).contiguous(memory_format=torch.channels_last_3d)
        >>> clip_to_frames(clip).stride()
        (16, 1, 8, 4)
    """
    return clip.select(2, 0) if clip.shape[2] == 1 else clip.movedim(2, 1).flatten(0, 1)


def frames_to_clip(frames: Tensor, samples: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W).

    Example:
        >>> import torch
        >>> frames_to_clip(torch.zeros(6, 4, 2, 2), samples=2).shape
        torch.Size([2, 4, 3, 2, 2])
    """
    return frames.unsqueeze(2) if len(frames) == samples else frames.unflatten(0, (samples, -1)).movedim(1, 2)

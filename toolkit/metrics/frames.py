"""Scores of frames: PSNR and LPIPS; SSIM and MS-SSIM are in ``similarity.py``.

Protocol of all: pixels are clamped to [-1, 1], mapped to [0, 1] and not rounded to 8 bits; every RGB frame gets a score
with data range 1, and the result is the mean over all frames of all clips, so a clip counts by its length.
"""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Column, Metric
from toolkit.layers.distributed import sum_numbers_over_processes
from toolkit.metrics.checks import check_clips, check_mergeable, clamped
from toolkit.pretrained import lpips_network
from toolkit.registry import METRICS

_lpips = functools.cache(lpips_network)  # one network serves all blocks and metrics


class FrameMean(Metric):
    """The mean over frames of a score of two frames; an author writes :meth:`score`."""

    name: str  # of the score in compute's result

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def score(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Two batches of frames (N, C, H, W) float32 in [0, 1] -> (N,)."""

    @torch.no_grad()
    def update(self, *, target: Tensor, reconstruction: Tensor, indices: Tensor | None = None) -> None:
        """Add clips (B, C, T, H, W) of any float dtype in [-1, 1].

        The reconstruction is clamped. With NaN or infinity in it the score is NaN.

        Raises:
            ValueError: For clips of other types, ranges or unequal sizes, or frames that are too small.
        """
        check_clips(self, target, reconstruction)
        if not len(target):
            return
        scores = self.score(_unit_frames(target), _unit_frames(reconstruction))  # (B * T,)
        self._total += scores.double().sum().item()
        self._frames += len(scores)

    def compute(self) -> dict[str, float]:
        """The mean over all frames of all processes; ValueError without frames."""
        total, frames = sum_numbers_over_processes([self._total, self._frames])
        if not frames:
            raise ValueError(f"{type(self).__name__} has no frames; call update first.")
        return {self.name: total / frames}

    def num_samples(self) -> int:
        """Number of frames of all processes."""
        return int(sum_numbers_over_processes([self._frames])[0])

    def merged(self, others: Sequence[Metric]) -> FrameMean:
        check_mergeable(self, others)
        merged = copy.copy(self)
        merged._total = sum(other._total for other in (self, *others))
        merged._frames = sum(other._frames for other in (self, *others))
        return merged

    def reset(self) -> None:
        self._total, self._frames = 0.0, 0


def _unit_frames(pixels: Tensor) -> Tensor:
    return (rearrange(clamped(pixels), "b c t h w -> (b t) c h w") + 1) / 2


@METRICS.register_module()
class PSNR(FrameMean):
    """Peak signal-to-noise ratio in dB, per frame, then averaged.

    A frame with a squared error below 1e-10, which is float32's noise, counts as 100 dB; otherwise
    one perfect frame would make the mean infinite.

    Example:
        >>> psnr, x = PSNR(), torch.zeros(1, 3, 1, 8, 8)
        >>> psnr.update(target=x, reconstruction=x + 0.2, indices=None)   # error 0.1 of the range
        >>> round(psnr.compute()["psnr"], 4)
        20.0
    """

    name = "psnr"
    higher_is_better = {"psnr": True}
    columns = {"psnr": Column("PSNR", ".2f", unit="dB")}

    def score(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Two batches of frames (N, C, H, W) in [0, 1] -> (N,) dB, at most 100."""
        error = (reconstruction - target).square().mean((1, 2, 3))
        return -10 * error.clamp_min(1e-10).log10()


@METRICS.register_module()
class LPIPS(FrameMean):
    """Learned perceptual distance v0.1 (Zhang et al., arXiv:1801.03924), per frame, then averaged.

    The score is called ``lpips_alex`` or ``lpips_vgg``. Frames have their own size; the network runs in float32.

    Args:
        net: ``"alex"``, the usual one to report, or ``"vgg"``, with which tokenizers are often trained. Another one
            raises a ValueError.

    Example:
        >>> lpips, black = LPIPS(net="alex"), -torch.ones(1, 3, 2, 64, 64)
        >>> lpips.update(target=black, reconstruction=-black)
        >>> {name: round(score, 4) for name, score in lpips.compute().items()}
        {'lpips_alex': 0.814}
    """

    batch_size = 32  # frames at once, which bounds memory
    higher_is_better = {"lpips_alex": False, "lpips_vgg": False}
    columns = {"lpips_alex": Column("LPIPS (Alex)", ".3f"), "lpips_vgg": Column("LPIPS (VGG)", ".3f")}

    def __init__(self, *, net: str = "alex"):
        self.network = _lpips(net)
        self.name = f"lpips_{net}"
        self.higher_is_better = {self.name: False}
        self.columns = {self.name: type(self).columns[self.name]}
        super().__init__()

    def score(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Two batches of frames (N, 3, H, W) in [0, 1] -> (N,).

        Raises:
            ValueError: If the frames are not RGB, or a side is below 31 (``"alex"``) or 16 (``"vgg"``).
        """
        return torch.cat([self.network(one * 2 - 1, other * 2 - 1) for one, other in
                          zip(reconstruction.split(self.batch_size), target.split(self.batch_size), strict=True)])

"""Distances of pixels: PSNR and SSIM.

Protocol of both: pixels are clamped to [-1, 1], mapped to [0, 1] and not rounded to 8 bits; every
frame gets a score with data range 1, and the result is the mean over all frames of all clips, so a
clip counts by its length. Frames are compared in RGB.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Column, Metric
from toolkit.layers.distributed import sum_numbers_over_processes
from toolkit.metrics.merging import check_mergeable
from toolkit.registry import METRICS


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
        """Add a batch of clips (B, C, T, H, W) in [-1, 1]; indices are not used.

        Raises:
            ValueError: If the two have different sizes, or their frames are too small.
        """
        if target.shape != reconstruction.shape or target.ndim != 5:
            raise ValueError(f"{type(self).__name__} compares clips (B, C, T, H, W) of equal size, got "
                             f"{tuple(target.shape)} and {tuple(reconstruction.shape)}.")
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
    return (rearrange(pixels.detach().float(), "b c t h w -> (b t) c h w").clamp(-1, 1) + 1) / 2


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
class SSIM(FrameMean):
    """Structural similarity (Wang et al., 2004), per frame, then averaged.

    Gaussian 11 x 11 window of sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance, the mean over
    channels and over the positions where the window lies inside the frame (5 pixels at each border
    are excluded), as in Wang's code and in scikit-image with ``gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False``. (torchmetrics averages over the reflected borders too, which
    changes the third digit.)

    Example:
        >>> ssim, x = SSIM(), torch.rand(1, 3, 1, 16, 16)
        >>> ssim.update(target=x, reconstruction=x, indices=None)
        >>> round(ssim.compute()["ssim"], 4)
        1.0
    """

    name = "ssim"
    higher_is_better = {"ssim": True}
    columns = {"ssim": Column("SSIM", ".3f")}

    def score(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Two batches of frames (N, C, H, W) in [0, 1] -> (N,) in [-1, 1].

        Raises:
            ValueError: If a side is below 11.
        """
        if min(target.shape[2:]) < 11:
            raise ValueError(f"SSIM takes frames of at least 11 x 11, its window, got "
                             f"{tuple(target.shape[2:])}; use larger frames or remove SSIM from the metrics.")
        from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds

        _, similarity = structural_similarity_index_measure(
            reconstruction, target, gaussian_kernel=True, sigma=1.5, data_range=1.0, k1=0.01, k2=0.03,
            reduction="none", return_full_image=True)
        return similarity[..., 5:-5, 5:-5].mean((1, 2, 3))  # the rest saw reflected pixels

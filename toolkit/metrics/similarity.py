"""Structural similarity, at one scale and at several."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.contracts import Column
from toolkit.metrics.frames import FrameMean
from toolkit.registry import METRICS

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first: Wang et al., sec. 3.2
SMALLEST = 161  # whose fourth half, rounded up each time, is the window's 11


@METRICS.register_module()
class SSIM(FrameMean):
    """Structural similarity (Wang et al., 2004), per frame, then averaged.

    Gaussian 11 x 11 window of sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance, the mean over channels and over
    the positions where the window lies inside the frame (5 pixels at each border are excluded), as in Wang's code and
    in scikit-image with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. (torchmetrics averages over
    the reflected borders too, which changes the third digit.)

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
        """Two batches of frames (N, C, H, W) in [0, 1] -> (N,) in [-1, 1]; ValueError if a side is below 11."""
        if min(target.shape[2:]) < 11:
            raise ValueError(f"SSIM takes frames of at least 11 x 11, its window, got "
                             f"{tuple(target.shape[2:])}; use larger frames or remove SSIM from the metrics.")
        from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds

        _, similarity = structural_similarity_index_measure(
            reconstruction, target, gaussian_kernel=True, sigma=1.5, data_range=1.0, k1=0.01, k2=0.03,
            reduction="none", return_full_image=True)
        return similarity[..., 5:-5, 5:-5].mean((1, 2, 3))  # the rest saw reflected pixels


@METRICS.register_module()
class MSSSIM(FrameMean):
    """Multi-scale structural similarity (Wang et al., Asilomar 2003), per frame, then averaged.

    Five scales, each the 2 x 2 means of the one before (an odd border is repeated), window, constants and
    borders as :class:`SSIM`'s. Of every channel the product over scales of its contrast-structure term,
    at the coarsest of its SSIM, to the powers 0.0448, 0.2856, 0.3001, 0.2363 and 0.1333, negative terms
    counting as 0; then the mean over channels, as TensorFlow's ``ssim_multiscale`` and ``pytorch_msssim``.

    Example:
        >>> msssim, x = MSSSIM(), torch.rand(1, 3, 1, 161, 161)
        >>> msssim.update(target=x, reconstruction=x)
        >>> round(msssim.compute()["ms_ssim"], 4)
        1.0
    """

    name = "ms_ssim"
    higher_is_better = {"ms_ssim": True}
    columns = {"ms_ssim": Column("MS-SSIM", ".3f")}

    def score(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Two batches of frames (N, C, H, W) in [0, 1] -> (N,) in [0, 1]; ValueError if a side is below 161."""
        if min(target.shape[2:]) < SMALLEST:
            raise ValueError(f"MSSSIM takes frames of at least {SMALLEST} x {SMALLEST}, of whose five scales the "
                             f"coarsest has its window's 11, got {tuple(target.shape[2:])}; use larger frames or "
                             "remove MSSSIM from the metrics.")
        product = torch.ones(target.shape[:2], dtype=torch.float64, device=target.device)  # (N, C)
        for scale, weight in enumerate(WEIGHTS):
            if scale:
                height, width = target.shape[2:]
                border = (0, width % 2, 0, height % 2)
                target, reconstruction = (F.avg_pool2d(F.pad(frames, border, mode="replicate"), 2)
                                          for frames in (target, reconstruction))
            similarity, structure = _similarity(target, reconstruction)
            term = similarity if scale == len(WEIGHTS) - 1 else structure
            product *= term.mean((2, 3)).double().clamp(min=0) ** weight
        return product.mean(1)


def _similarity(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure term (N, C, H - 10, W - 10), where the window lies inside the frame."""
    mean1, mean2, square1, square2, product = (_windowed(x) for x in (first, second, first * first, second * second,
                                                                      first * second))
    structure = (2 * (product - mean1 * mean2) + 0.03**2) / (square1 + square2 - mean1**2 - mean2**2 + 0.03**2)
    return structure * (2 * mean1 * mean2 + 0.01**2) / (mean1**2 + mean2**2 + 0.01**2), structure


def _windowed(x: Tensor) -> Tensor:
    """Means under the Gaussian window of 11 x 11 and sigma 1.5."""
    window = torch.exp(-(torch.arange(-5, 6, dtype=x.dtype, device=x.device) / 1.5) ** 2 / 2)
    window = (window / window.sum()).expand(x.shape[1], 1, 1, 11)
    return F.conv2d(F.conv2d(x, window, groups=x.shape[1]), window.mT, groups=x.shape[1])

"""Running scores over a data set, one idea per file."""

from toolkit.metrics.codebook import Codebook
from toolkit.metrics.pixel import PSNR, SSIM

__all__ = ["PSNR", "SSIM", "Codebook"]

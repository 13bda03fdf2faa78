"""Running scores over a data set, one idea per file."""

from toolkit.metrics.codebook import Codebook, collapse_of
from toolkit.metrics.frechet import RFID, RFVD, frechet_distance
from toolkit.metrics.pixel import PSNR, SSIM

__all__ = ["PSNR", "RFID", "RFVD", "SSIM", "Codebook", "collapse_of", "frechet_distance"]

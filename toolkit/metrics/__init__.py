"""Running scores over a data set, one idea per file."""

from toolkit.metrics.codebook import Codebook, collapse_of
from toolkit.metrics.frames import LPIPS, PSNR
from toolkit.metrics.frechet import RFID, RFVD, FrechetMetric, frechet_distance, frechet_distance_of_features
from toolkit.metrics.kernel import InceptionDistances, VideoDistances, kernel_distance
from toolkit.metrics.similarity import MSSSIM, SSIM

__all__ = ["LPIPS", "MSSSIM", "PSNR", "RFID", "RFVD", "SSIM", "Codebook", "FrechetMetric", "InceptionDistances",
           "VideoDistances", "collapse_of", "frechet_distance", "frechet_distance_of_features", "kernel_distance"]

"""Frames of three sample videos that nothing here trains on, as images."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, MSSSIM, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("sample clips", "eval, 16 frames each", 48, 176,
             (PSNR, SSIM, MSSSIM, ALEX, VGG, INCEPTION, CODEBOOK)),
    path=None, shown=("city",), steps=600)

"""Nine clips of three sample videos that nothing here trains on: small enough for a laptop, too few for more."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, MSSSIM, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol(
        "sample clips", "eval", 9, 176, (PSNR, SSIM, MSSSIM, ALEX, VGG, INCEPTION, I3D, CODEBOOK), num_frames=13,
        clips_per_video=3),
    path=None, shown=("city",), steps=600)

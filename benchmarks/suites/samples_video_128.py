"""Nine clips, 17x128x128, of three sample videos that nothing here trains on; the size of many published scores."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol(
        "sample clips", "eval", 9, 128, (PSNR, SSIM, ALEX, VGG, INCEPTION, I3D, CODEBOOK), num_frames=17,
        clips_per_video=3),
    path=None, shown=("city",), steps=600)

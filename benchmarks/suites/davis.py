"""DAVIS 2017 val: 30 videos, 17x256x256, the middle clip of each."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, MSSSIM, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("DAVIS 2017", "val", 30, 256, (PSNR, SSIM, MSSSIM, ALEX, VGG, INCEPTION, I3D, CODEBOOK), num_frames=17),
    path="data/davis/val")

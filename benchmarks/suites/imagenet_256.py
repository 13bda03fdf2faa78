"""ImageNet-256 val as most papers have it: short edge to 256, centre crop, floats into Inception."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, MSSSIM, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("ImageNet-1k", "val", 50_000, 256,
             (PSNR, SSIM, MSSSIM, ALEX, VGG, INCEPTION | {"value_type": "float"}, CODEBOOK)),
    path="data/imagenet/val")

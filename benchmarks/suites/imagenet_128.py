"""ImageNet-128 val: MAGVIT-v2's rFID of 1.21 and Open-MAGVIT2's of 1.18 are of this size."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("ImageNet-1k", "val", 50_000, 128,
             (PSNR, SSIM, ALEX, VGG, INCEPTION | {"value_type": "float"}, CODEBOOK)),
    path="data/imagenet/val")

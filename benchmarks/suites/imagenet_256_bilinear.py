"""ImageNet-256 val as Open-MAGVIT2 and IBQ measure it: bilinear resize, floats into Inception (rFID 1.17, 1.00)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("ImageNet-1k", "val", 50_000, 256,
             (PSNR, SSIM, ALEX, VGG, INCEPTION | {"value_type": "float"}, CODEBOOK),
             resize="short edge, bilinear without antialiasing",
             deviations=("the authors' SSIM has skimage's uniform 7x7 window, ours a Gaussian one",)),
    path="data/imagenet/val")

"""COCO val2017, 256 pixels, as Open-MAGVIT2's zero-shot table (rFID 7.93 and 6.76)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("COCO", "val2017", 5_000, 256,
             (PSNR, SSIM, ALEX, VGG, INCEPTION | {"value_type": "float"}, CODEBOOK),
             resize="short edge, bilinear without antialiasing",
             deviations=("that the authors' table is of val2017 with its 5,000 images is assumed",)),
    path="data/coco/val2017")

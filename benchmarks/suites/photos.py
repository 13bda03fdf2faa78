"""44 photos of Debian 12's packages that nothing here trains on, 128 pixels; configs/README.md says how to get them."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("photos of Debian 12", "held out", 44, 128, (PSNR, SSIM, ALEX, VGG, INCEPTION, CODEBOOK)),
    path="configs/photos/held_out.txt")

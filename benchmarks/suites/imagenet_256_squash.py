"""ImageNet-256 val as OmniTokenizer measures it: images squashed to squares (rFID 1.11)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, PSNR, SSIM, Protocol, Suite

SUITE = Suite(
    Protocol("ImageNet-1k", "val", 50_000, 256, (PSNR, SSIM, ALEX, INCEPTION, CODEBOOK), values="uint8",
             resize="squash, bicubic"),
    path="data/imagenet/val")

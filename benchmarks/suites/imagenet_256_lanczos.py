"""ImageNet-256 val as BSQ-ViT measures it: Lanczos resize (rFID 1.34, PSNR 24.79)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, PSNR, SSIM, Protocol, Suite

SUITE = Suite(
    Protocol("ImageNet-1k", "val", 50_000, 256, (PSNR, SSIM, ALEX, INCEPTION, CODEBOOK), values="uint8",
             resize="short edge, Lanczos"),
    path="data/imagenet/val")

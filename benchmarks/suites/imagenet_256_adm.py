"""ImageNet-256 val as LlamaGen measures it: ADM's crop, 8 bits (rFID 2.19)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, INCEPTION, PSNR, SSIM, Protocol, Suite

SUITE = Suite(
    Protocol("ImageNet-1k", "val", 50_000, 256, (PSNR, SSIM, ALEX, INCEPTION, CODEBOOK), values="uint8",
             resize="halve by box, then short edge, bicubic",
             deviations=("the authors use TensorFlow's evaluator",)),
    path="data/imagenet/val")

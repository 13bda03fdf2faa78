"""UCF-101 as MAGVIT measures it: the train list's 9,537 videos, 16x128x128 (rFVD 25, PSNR 22.0, LPIPS .099)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("UCF-101", "train list 1", 9_537, 128, (PSNR, SSIM, ALEX, VGG, INCEPTION, I3D, CODEBOOK), num_frames=16,
             values="uint8", deviations=("which clip of a video the authors take was not seen; here the middle one",)),
    path="data/ucf101/trainlist01.txt")

"""MCL-JCV as VidTok measures it: 30 videos, 17x256x256 (FSQ-262144: PSNR 29.82, SSIM .867, LPIPS .106, FVD 160)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, MSSSIM, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("MCL-JCV", "all", 30, 256, (PSNR, SSIM, MSSSIM, ALEX, VGG, INCEPTION, I3D, CODEBOOK), num_frames=17,
             deviations=("which clips of a video, and how many, the authors take was not seen; here the middle one",)),
    path="data/mcl_jcv")

"""UCF-101 as OmniTokenizer measures it: the val list, 17x256x256 (rFVD 42.35)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, MSSSIM, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("UCF-101", "val list", None, 256, (PSNR, SSIM, MSSSIM, ALEX, VGG, INCEPTION, I3D, CODEBOOK),
             num_frames=17, values="uint8",
             deviations=("which clip of a video the authors take was not seen; here the middle one",)),
    path="data/ucf101/vallist.txt")

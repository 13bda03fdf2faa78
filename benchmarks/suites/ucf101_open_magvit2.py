"""UCF-101 as Open-MAGVIT2 measures it: 10,000 random clips of the train folder, 17x128x128, random crops (rFVD 16)."""

from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, PSNR, SSIM, VGG, Protocol, Suite

SUITE = Suite(
    Protocol("UCF-101", "train folder", 10_000, 128, (PSNR, SSIM, ALEX, VGG, INCEPTION, I3D, CODEBOOK), num_frames=17,
             resize="short edge, bilinear without antialiasing", crop="random", clip_choice="random", values="uint8",
             deviations=("which files are repeated and where they are cut is drawn by our generator",
                         "the authors cut to 8 bits, here it is rounded")),
    path="data/ucf101/train")

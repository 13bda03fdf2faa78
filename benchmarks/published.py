"""Published checkpoints for verify_published.py: address, stated scores and their protocol.

``evidence`` names what confirms the address and the scores, or says that the source could not be opened. No sha256 is
pinned yet: the result of a run records the one of its file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from toolkit.evaluation.protocol import PSNR, RFID, RFVD, SSIM, Protocol


@dataclass(frozen=True)
class Published:
    """A checkpoint under one protocol."""

    repo: str  # on the Hugging Face hub
    file: str
    layout: str  # name of the checkpoint family
    protocol: Protocol
    source: str  # of the stated scores
    evidence: str  # what confirmed the address and the scores
    network: str  # of configs/_base_/networks: the same architecture; the dry run shrinks it
    stated: dict[str, float] = field(default_factory=dict)  # scores that the authors state
    changes: dict[str, Any] = field(default_factory=dict)  # to the network: channel_multipliers, bits
    tolerance: dict[str, float] = field(default_factory=lambda: {"rfid": 0.05, "rfvd": 1.0, "psnr": 0.1, "ssim": 0.02})
    revision: str = "main"
    sha256: str | None = None  # checked if set

    @property
    def address(self) -> str:
        """Repository, file and revision in one line."""
        return f"{self.repo}/{self.file}@{self.revision[:7]}"


_SEED = "TencentARC/SEED-Voken docs/Open-MAGVIT2.md"
_BILINEAR = "short edge, bilinear without antialiasing"  # the authors', by albumentations
_SEED_CODE = (
    "their PSNR and SSIM are of pixels cut to 8 bits; their SSIM has skimage's uniform 7x7 window, ours a Gaussian one")
_IMAGENET_256 = Protocol("ImageNet-1k", "val", 50_000, 256, (RFID, PSNR, SSIM), resize=_BILINEAR, deviations=_SEED_CODE)
_IMAGENET_128 = replace(_IMAGENET_256, size=128)
_COCO = replace(_IMAGENET_256, dataset="COCO", split="val2017", num_samples=5_000, deviations=(
    *_SEED_CODE, "their table says COCO only: that this is val2017 with 5,000 images is assumed"))
_UCF = Protocol(
    "UCF-101", "train", 10_000, 128, (RFVD, PSNR, SSIM), num_frames=17, resize=_BILINEAR, crop="random",
    clip_choice="random", values="uint8", deviations=(
        "which files the authors repeat, and where they cut, was drawn by their generator, not by ours",
        "that their train folder is the first train list, of 9,537 files, is assumed",
        "they cut to 8 bits, here it is rounded",
        "their configuration's frame rate was not seen; here it is the file's"))
_LLAMAGEN = Protocol("ImageNet-1k", "val", 50_000, 256, (RFID, PSNR, SSIM), values="uint8",
                     resize="halve by box, then short edge, bicubic",
                     deviations=("the authors use TensorFlow's evaluator",))
_CLIPS = Protocol("any clips", "all", None, 256, (RFVD, PSNR, SSIM), num_frames=17)

_CONFIRMED = f"address and scores: the table of {_SEED} (its link and its row)"
_HUB = "; file and commit: a stored copy of the hub's file list"
_OPEN_256 = Published(
    "TencentARC/Open-MAGVIT2-Tokenizer-256-resolution", "imagenet_256_L.ckpt", "open_magvit2", _IMAGENET_256, _SEED,
    _CONFIRMED + _HUB, "open_magvit2_image", {"rfid": 1.17, "psnr": 21.90},
    revision="21796c66c698a7c65178a073e0a0358ebbcb6365")
_PRETRAIN_14 = replace(
    _OPEN_256, repo="TencentARC/Open-MAGVIT2-Tokenizer-16384-Pretrain", file="pretrain256_16384.ckpt",
    stated={"rfid": 2.55, "psnr": 22.21, "ssim": 0.62}, changes={"bits": 14}, revision="main")
_PRETRAIN_18 = replace(
    _OPEN_256, repo="TencentARC/Open-MAGVIT2-Tokenizer-262144-Pretrain", file="pretrain256_262144.ckpt",
    stated={"rfid": 1.67, "psnr": 22.70, "ssim": 0.64}, evidence=_CONFIRMED, revision="main")
_VQ16 = Published(
    "FoundationVision/LlamaGen", "vq_ds16_c2i.pt", "llamagen", _LLAMAGEN, "FoundationVision/LlamaGen README.md",
    "address and score: the table of the source (its link and its row, 256x256)", "llamagen_vq16", {"rfid": 2.19})

PUBLISHED: dict[str, Published] = {
    "o2_magvit2_preview": Published(
        "CofeAI/O2-MAGVIT2-preview", "pytorch_model.bin", "o2_magvit2", _CLIPS, "cofe-ai/O2-MAGVIT2 README.md",
        "address: the source's link; file and commit: a stored copy of the hub's file list; the source states no score",
        "o2_magvit2_video", revision="a1f9f5774cb99f95f4817b6d6ce368ee162af1a0"),
    "open_magvit2_256": _OPEN_256,
    "open_magvit2_128": replace(
        _OPEN_256, repo="TencentARC/Open-MAGVIT2-Tokenizer-128-resolution", file="imagenet_128_L.ckpt",
        protocol=_IMAGENET_128, stated={"rfid": 1.18, "psnr": 25.08}, evidence=_CONFIRMED, revision="main",
        changes={"channel_multipliers": (1, 2, 2, 4)}),
    "open_magvit2_16384": _PRETRAIN_14,
    "open_magvit2_16384_coco": replace(
        _PRETRAIN_14, protocol=_COCO, stated={"rfid": 7.93, "psnr": 22.21, "ssim": 0.62}),
    "open_magvit2_262144": _PRETRAIN_18,
    "open_magvit2_262144_coco": replace(
        _PRETRAIN_18, protocol=_COCO, stated={"rfid": 6.76, "psnr": 22.31, "ssim": 0.65}),
    "open_magvit2_video": Published(
        "TencentARC/Open-MAGVIT2-Tokenizer-262144-Video", "video_128_262144.ckpt", "open_magvit2", _UCF,
        "not seen at the authors'",
        "address: a stored copy of the hub's file list; the score, 16, is a note of this project that names no page: "
        "the versions of the source's docs that could be read have no video table", "open_magvit2_video",
        {"rfvd": 16.0}),
    "llamagen_vq16": _VQ16,
    "llamagen_vq8": replace(_VQ16, file="vq_ds8_c2i.pt", stated={"rfid": 0.59},
                            changes={"channel_multipliers": (1, 2, 2, 4)}),
}

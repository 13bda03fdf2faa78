"""Results in the benchmark's form on the CC0 city clip: of degraded copies, not of tokenizers; only PSNR is real."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.assets import fetch
from toolkit.data import read_video, write_video

DEGRADATIONS = {"half": ("1/2 size, 24 levels", 2, 24), "half_coarse": ("1/2 size, 8 levels", 2, 8),
                "quarter": ("1/4 size, 24 levels", 4, 24), "quarter_coarse": ("1/4 size, 8 levels", 4, 8)}
FPS = 8.0


def write_example(folder: Path, *, size: int = 128, num_frames: int = 17) -> list[dict[str, Any]]:
    """Write the videos into ``folder`` and return the rows."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    frames, _ = read_video(fetch("clips/city"), num_frames=num_frames, frame_stride=3)
    clip = rearrange(frames, "t h w c -> t c h w").float() / 127.5 - 1
    side = min(clip.shape[2:])
    clip = F.interpolate(clip[:, :, :side, :side], (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    _write(videos / "original_0.mp4", clip)
    _write(videos / "original_1.mp4", clip.flip(0))
    rows = []
    for name, (title, factor, levels) in DEGRADATIONS.items():
        small = F.interpolate(clip, scale_factor=1 / factor, mode="area")
        coarse = F.interpolate(((small + 1) / 2 * levels).round() / levels * 2 - 1, (size, size), mode="bilinear")
        _write(videos / f"{name}_0.mp4", coarse)
        _write(videos / f"{name}_1.mp4", coarse.flip(0))
        rows.append(_row(name, title, _psnr(coarse, clip), 0.0828))
    return rows + _baselines(rows)


def _write(path: Path, clip: Tensor) -> None:
    write_video(path, rearrange(clip, "t c h w -> c t h w"), fps=FPS)


def _psnr(coarse: Tensor, clip: Tensor) -> float:
    return -10 * math.log10(((coarse - clip) / 2).square().mean().item())


def _row(name: str, title: str, psnr: float, rate: float) -> dict[str, Any]:
    seed = float(sum(map(ord, name)) % 7)
    ssim, lpips = 1 - 0.5 * 10 ** (-(psnr - 18) / 12), 0.9 * 10 ** (-(psnr - 10) / 16)
    counts = sorted((max(1, round(900 / (rank + 2 + seed) ** 0.9)) for rank in range(1800)), reverse=True)
    digits = [math.log(2) * (1 - 0.03 * seed * (n % 4) / 4) for n in range(18)]
    return {
        "name": name, "kind": "tokenizer", "title": title, "suite": "example",
        "protocol": {"suite": "example", "clips": ["clips/city"], "num_frames": 17, "size": [128, 128],
                     "frame_stride": 3, "resize": "short edge, bicubic with antialiasing", "crop": "centre",
                     "values": "float", "interval": "bootstrap, 95 %, 1000 resamples", "seed": 0},
        "protocol_hash": "9c41f0b27d3a",
        "scores": {"bits_per_pixel": rate, "bits_per_second": rate * 128 * 128 * FPS, "psnr": psnr, "ssim": ssim,
                   "ms_ssim": ssim**0.6, "lpips_alex": lpips, "lpips_vgg": 1.3 * lpips, "rfid": 900 * lpips,
                   "kid": 0.6 * lpips, "rfvd": 4000 * lpips, "kvd": 90 * lpips, "codebook_usage": 1800 / 2**18,
                   "codebook_perplexity": 700 - 20 * seed},
        "intervals": {"psnr": [psnr - 0.6, psnr + 0.7], "ssim": [ssim - 0.02, ssim + 0.02],
                      "lpips_alex": [0.93 * lpips, 1.06 * lpips], "rfid": [840 * lpips, 980 * lpips]},
        "extrapolated": {"rfid": 700 * lpips}, "marks": {"rfid": "few samples", "rfvd": "few samples"},
        "num_samples": 64, "num_blocks": 16,
        "codebook": {"size": 2**18, "num_codebooks": 1, "histogram": counts, "digit_entropies": [digits]},
        "parameters": {"encoder": 5_400_000, "quantizer": 0, "decoder": 7_900_000},
        "throughput": {"encode_frames_per_second": 31.0 + seed, "decode_frames_per_second": 22.5 + seed},
        "peak_memory_gib": 1.4, "assets": {"clips/city": "CC0"}, "versions": {"toolkit": "0.1.0"},
        "hardware": {"processor": "2 cores"}, "curve": [],
        "videos": [f"videos/{name}_0.mp4", f"videos/{name}_1.mp4"],
        "original_videos": ["videos/original_0.mp4", "videos/original_1.mp4"]}


def _baselines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shared = {key: rows[0][key] for key in ("suite", "protocol", "protocol_hash", "num_samples")}
    baselines = []
    for name, title, gain in (("x264", "x264", 0.0), ("x265", "x265", 1.6)):
        curve = []
        for n in range(6):
            psnr = 20 + gain + 2.6 * n
            curve.append({"bits_per_pixel": 0.03 * 1.9**n, "psnr": psnr, "ssim": 1 - 0.45 * 10 ** (-(psnr - 18) / 12),
                          "lpips_alex": 0.8 * 10 ** (-(psnr - 10) / 16)})
        baselines.append(shared | {"name": name, "kind": "baseline", "title": title, "scores": curve[2],
                                   "curve": curve})
    thumbnail = {"bits_per_pixel": 0.0828, "psnr": 18.5, "ssim": 0.42, "lpips_alex": 0.41}
    bypass = {"psnr": 29.0, "ssim": 0.94, "lpips_alex": 0.045}
    return [*baselines, shared | {"name": "thumbnail", "kind": "baseline", "title": "Thumbnail", "scores": thumbnail},
            shared | {"name": "bypass", "kind": "baseline", "title": "No quantizer", "scores": bypass}]

"""Nine quantizers and five recipe variants at 12 bits per position, in a network that trains on two cores.

    python benchmarks/run.py --leaderboard small
"""

from toolkit.evaluation.leaderboard import Leaderboard, LeaderboardEntry


def quantizer(**config) -> dict:
    """The override that replaces the quantizer and nothing else."""
    return {"tokenizer.quantizer": dict(_delete_=True, **config)}


def two(**config) -> list[dict]:
    """Two equal children of a residual or grouped quantizer."""
    return [dict(config), dict(config)]


RESIDUAL_LFQ = [dict(type="LFQ", bits=6), dict(type="LFQ", bits=6, scale=0.5)]

LEADERBOARD = Leaderboard(
    config="../../configs/leaderboard.py",
    suites=("samples_video", "samples_image"),
    flops=1e13,
    entries=(
        LeaderboardEntry("lfq", "LFQ"),
        LeaderboardEntry("bsq", "BSQ", quantizer(type="BSQ", bits=12, inv_temperature=10.0, entropy_groups=1)),
        LeaderboardEntry("fsq", "FSQ", quantizer(type="FSQ", levels=[8, 8, 8, 8])),
        LeaderboardEntry("vq", "VQ", quantizer(type="VQ", codebook_size=4096, dim=16)),
        LeaderboardEntry("ibq", "IBQ", quantizer(type="IBQ", codebook_size=4096, dim=16)),
        LeaderboardEntry("residual_lfq", "residual LFQ", quantizer(type="Residual", quantizers=RESIDUAL_LFQ)),
        LeaderboardEntry("grouped_lfq", "grouped LFQ", quantizer(type="Grouped", quantizers=two(type="LFQ", bits=6))),
        LeaderboardEntry("residual_vq", "residual VQ", quantizer(
            type="Residual", quantizers=two(type="VQ", codebook_size=64, dim=16))),
        LeaderboardEntry("grouped_vq", "grouped VQ", quantizer(
            type="Grouped", quantizers=two(type="VQ", codebook_size=64, dim=8))),
        LeaderboardEntry("lfq_no_bypass", "LFQ without bypass", {"training.quantization": 1.0}, base="lfq"),
        LeaderboardEntry("lfq_no_lpips", "LFQ without LPIPS", {"objective.losses.perceptual": None}, base="lfq"),
        LeaderboardEntry("lfq_rotation", "LFQ with rotation trick", {"tokenizer.quantizer.rotation_trick": True},
                         base="lfq"),
        LeaderboardEntry("vq_ema", "VQ with averaged codebook", quantizer(
            type="VQ", codebook_size=4096, dim=16, update="ema", decay=0.95, kmeans_iters=10, revive_below=0.1),
            base="vq"),
        LeaderboardEntry("vq_rotation", "VQ with rotation trick", quantizer(
            type="VQ", codebook_size=4096, dim=16, rotation_trick=True), base="vq")))

"""Two processes that share the data report what one process with all of it does."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from toolkit.registry import METRICS

CONFIGS = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook", codebook_size=64, num_codebooks=2),
           dict(type="RFID")]


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 3, 1)  # process 0 gets the first and the last, so the two shares differ
    return [dict(target=torch.rand(b, 3, 2, 16, 16, generator=generator) * 2 - 1,
                 reconstruction=torch.rand(b, 3, 2, 16, 16, generator=generator) * 2 - 1,
                 indices=torch.randint(0, 64, (b, 2, 2, 2, 2), generator=generator)) for b in sizes]


def scores(share: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    result = {}
    for config in CONFIGS:
        metric = METRICS.build(config)
        for batch in share:
            metric.update(**batch)
        result |= metric.compute()
    return result


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = [scores(batches()[rank::2]), scores([] if rank else batches())]  # split; or one has none
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    mp.spawn(run, args=(str(tmp_path),), nprocs=2)
    expected = scores(batches())
    for rank in (0, 1):
        for result in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert result == pytest.approx(expected, rel=1e-9)

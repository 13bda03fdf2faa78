"""Two processes that share the data report what one process with all of it does."""

import json
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pooled import FewThumbnails, Thumbnails, pair, part_of

from toolkit.contracts import Metric
from toolkit.evaluation.intervals import extrapolate, jackknife, merge
from toolkit.registry import METRICS

CONFIGS = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook", codebook_size=64, num_codebooks=2, fps=8),
           dict(type="InceptionDistances")]
KINDS = (Thumbnails, FewThumbnails)  # of the second only a sample of the features stays


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [dict(target=torch.rand(b, 3, 2, 16, 16, generator=generator) * 2 - 1,
                 reconstruction=torch.rand(b, 3, 2, 16, 16, generator=generator) * 2 - 1,
                 indices=torch.randint(0, 64, (b, 2, 2, 2, 2), generator=generator)) for b in (2, 3, 1)]


def scores(share: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    result = {}
    for config in CONFIGS:
        metric = METRICS.build(config)
        for batch in share:
            metric.update(**batch)
        result |= metric.compute()
    return result


def filled(kind: type[Metric], rank: int, num_processes: int, states: list[dict] | None = None) -> list[Metric]:
    """Six blocks of unequal size, the last one empty, of which a process has every other clip."""
    blocks = [kind() for _ in range(6)]
    for number, count in enumerate((4, 1, 7, 2, 12)):
        if states:
            blocks[number].load_target_state(states[number])
        blocks[number].update(**part_of(pair(count, 3, 3, 8, 8, seed=number), slice(rank, None, num_processes)))
    return blocks


def of_blocks(rank: int = 0, num_processes: int = 1) -> list[list[float]]:
    found = []
    for kind in KINDS:
        blocks = filled(kind, rank, num_processes)
        known = filled(kind, rank, num_processes, [block.target_state() for block in blocks])
        for some in (blocks, known):
            intervals = jackknife(some)
            for _, interval in sorted(intervals.items()):
                *numbers, without_block = astuple(interval)
                found.append([*map(float, numbers), *without_block])
            found.append([extrapolate(some, "pooled"), float(merge(some).num_samples())])
        if rank == 0:
            blocks[0].update(**pair(3, 3, 1, 8, 8, seed=9))  # one process only, after computing
        found.append(list(merge(blocks).compute().values()))
    return found


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    alone = scores([] if rank else batches())  # one process has no data
    Path(folder, f"{rank}.json").write_text(json.dumps([alone, of_blocks(rank, 2)]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    mp.spawn(run, args=(str(tmp_path),), nprocs=2)
    expected, blocks = scores(batches()), of_blocks()
    for rank in (0, 1):
        alone, found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert alone == pytest.approx(expected, rel=1e-9)
        for one, other in zip(found, blocks, strict=True):
            assert one == pytest.approx(other, rel=1e-8, abs=1e-10)

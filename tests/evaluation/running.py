"""Run benchmarks/run.py on clips of stripes, in this process or in several of their own."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"

SUITE = """
from toolkit.evaluation.protocol import CODEBOOK, I3D, INCEPTION, PSNR, SSIM, Protocol, Suite

SUITE = Suite(Protocol("stripes", "all", {num_samples}, {size}, ({metrics}), num_frames={num_frames},
                       clips_per_video={clips_per_video}), path={path!r}, shown=("0",), steps=2)
"""


def write_suite(file: Path, clips: Path, *, metrics: str = "PSNR, SSIM, CODEBOOK", size: int = 32, num_frames: int = 5,
                clips_per_video: int = 2, num_samples: int | None = None) -> Path:
    """A suite over a folder of clips."""
    file.write_text(SUITE.format(metrics=metrics, size=size, num_frames=num_frames, num_samples=num_samples,
                                 clips_per_video=clips_per_video, path=str(clips)))
    return file


def run_here(*arguments: object, script: str = "run.py") -> str | int | None:
    """What the script passes to ``sys.exit``: None or 0 is success; Python prints a text and exits with 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(str(FOLDER / script), run_name="__main__")
        except SystemExit as ended:
            return ended.code
    return None


def run_in_processes(count: int, *arguments: object) -> subprocess.CompletedProcess:
    """As ``accelerate launch`` does, which starts several CPU processes through mpirun only."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), str(FOLDER / "run.py")]
    return subprocess.run([sys.executable, *command, *map(str, arguments)], capture_output=True, text=True,
                          timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1",
                                                         "ACCELERATE_USE_CPU": "true"})


def rows_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> row."""
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}

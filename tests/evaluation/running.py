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
import torch
from training.tiny import tiny_config

from toolkit import build_tokenizer
from toolkit.evaluation.protocol import CODEBOOK, PSNR, SSIM, Protocol, Suite

FOLDER = Path(__file__).parents[2] / "benchmarks"


def write_suite(file: Path, clips: Path, *, metrics: tuple[dict[str, str], ...] = (PSNR, SSIM, CODEBOOK),
                num_samples: int | None = None, num_frames: int = 5, clips_per_video: int = 2) -> Path:
    """A suite over a folder of clips."""
    protocol = Protocol("stripes", "all", num_samples, 32, metrics, num_frames, clips_per_video=clips_per_video)
    suite = Suite(protocol, path=str(clips), shown=("0",), steps=2)
    file.write_text(f"from toolkit.evaluation.protocol import Protocol, Suite\nSUITE = {suite!r}\n")
    return file


def save_tokenizer(folder: Path, bits: int = 6) -> Path:
    """The directory of an untrained tokenizer."""
    torch.manual_seed(bits)
    config = tiny_config(folder)["tokenizer"]
    build_tokenizer(config | {"quantizer": dict(type="LFQ", bits=bits)}).save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def command_of(folder: Path, clips: Path, **suite: Any) -> list[str | Path]:
    """Arguments that measure an untrained tokenizer "mine"; suite, tokenizer and results are in the folder."""
    return ["--suite", write_suite(folder / "stripes.py", clips, **suite), "--output", folder / "out",
            "--device", "cpu", "--tokenizer", save_tokenizer(folder / "mine")]


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

"""Run the real commands, in a process of their own or in this one, and a tokenizer for them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training.tiny import NETWORK

from toolkit import build_tokenizer

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def command(tool: str, *arguments: object, num_processes: int = 1) -> list[str]:
    # torchrun, not accelerate launch, which starts several CPU processes through mpirun only
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    return [sys.executable, *(launcher if num_processes > 1 else []), str(ROOT / "tools" / f"{tool}.py"),
            *map(str, arguments)]


def run(tool: str, *arguments: object, num_processes: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(command(tool, *arguments, num_processes=num_processes), capture_output=True, text=True,
                          timeout=120, check=False, env=ENVIRONMENT)


def succeed(tool: str, *arguments: object, num_processes: int = 1) -> subprocess.CompletedProcess:
    done = run(tool, *arguments, num_processes=num_processes)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def run_here(tool: str, *arguments: object) -> str | int | None:
    """What the tool passes to ``sys.exit``: None is success, a text is printed by Python, with exit code 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command(tool, *arguments)[1:])
        try:
            runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
        except SystemExit as ended:
            return ended.code
    return None


def error_of(tool: str, *arguments: object) -> str:
    """The error message of a tool that fails as users see it: in one line."""
    message = run_here(tool, *arguments)
    assert isinstance(message, str) and message.startswith("error: ") and "\n" not in message.rstrip(), message
    return message


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def save_tokenizer(folder: Path, **network: object) -> Path:
    """An untrained tokenizer of stride (2, 2, 2) and 6 bits."""
    torch.manual_seed(0)
    network = NETWORK | network
    build_tokenizer(dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=6),
                         decoder=dict(type="MAGVIT2Decoder", **network))).save_pretrained(folder)
    return folder

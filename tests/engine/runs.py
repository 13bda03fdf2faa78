"""Runs of tools/train.py in processes, and comparisons of their work dirs."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from tools.commands import ENVIRONMENT, command
from torch.utils._pytree import keystr, tree_flatten_with_path
from training.tiny import metric_lines


def train_command(config: Path, work_dir: Path, *options: str, num_processes: int = 1) -> list[str]:
    return command("train", config, "--work-dir", work_dir, *options, num_processes=num_processes)


def start(command: list[str]) -> subprocess.Popen:
    """In a process group of its own, so that its workers can be killed with it."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env={**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"})


def finish(process: subprocess.Popen, *, timeout: float = 120) -> tuple[int, str]:
    """Exit code and stderr; a process that does not end is killed, and is an error."""
    try:
        _, error = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            kill(process)
    return process.returncode, error


def kill(process: subprocess.Popen) -> None:
    """Kill -9, with all its descendants: one in a session of its own would keep the pipes open."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.communicate(timeout=60)


def run_to_end(command: list[str]) -> str:
    """The stderr of a run that succeeds."""
    code, error = finish(start(command))
    assert code == 0, error[-3000:]
    return error


def wait_for(process: subprocess.Popen, work_dir: Path, *, step: int, timeout: float = 120) -> None:
    """Wait until the log of a process just started has a line of ``step``, or the process has ended."""
    file, begun, deadline = work_dir / "metrics.jsonl", time.time(), time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        # the log of an earlier attempt does not count: a run truncates it when it begins
        if file.exists() and file.stat().st_mtime > begun and f'"step": {step},' in file.read_text():
            return
        time.sleep(0.01)
    assert process.poll() is not None, f"no step {step} in {timeout} s"


def kill_at_random(command: list[str], work_dir: Path, *, after_step: int, draw: random.Random) -> None:
    """Start it, and kill it -9 with all its processes some time after a step."""
    process = start(command)
    wait_for(process, work_dir, step=after_step)
    time.sleep(draw.uniform(0, 0.5))
    assert process.poll() is None, finish(process)
    kill(process)
    assert not (work_dir / "tokenizer").exists()  # the run had not ended


def signal_all(process: subprocess.Popen, number: int) -> None:
    """As a scheduler does: a launcher, its processes in their own sessions, and their workers."""
    for each in [process, *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)


def lines_without_clocks(work_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [{key: value for key, value in line.items() if key not in ("time", "seconds_per_step")}
            for line in metric_lines(work_dir)]


def assert_same_tensors(one: Any, other: Any, where: str) -> None:
    """Bit for bit, through dictionaries and lists."""
    (one, layout), (other, other_layout) = tree_flatten_with_path(one), tree_flatten_with_path(other)
    assert layout == other_layout, where
    for (path, left), (_, right) in zip(one, other, strict=True):
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype and torch.equal(left, right), f"{where}{keystr(path)}"
        else:
            assert type(left) is type(right) and left == right, f"{where}{keystr(path)}"


def assert_same_run(one: Path, other: Path, *, step: int) -> None:
    """The last checkpoint with everything in it, the exported tokenizer and the log but for its clocks."""
    files = [sorted(path.name for path in (run / "checkpoints" / f"step_{step}").iterdir()) for run in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        pair = [run / "checkpoints" / f"step_{step}" / name for run in (one, other)]
        load = load_file if name.endswith("safetensors") else lambda path: torch.load(path, weights_only=True)
        assert_same_tensors(*map(load, pair), name)
    assert_same_tensors(*(load_file(run / "tokenizer" / "model.safetensors") for run in (one, other)), "tokenizer")
    assert lines_without_clocks(one) == lines_without_clocks(other)

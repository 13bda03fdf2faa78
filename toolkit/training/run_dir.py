"""A run's directory: its lock, its config, what produced it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from mmengine.config import Config

import toolkit
from toolkit.config import ConfigError
from toolkit.io.atomic_write import atomic_write
from toolkit.plugins import distributions_of

if TYPE_CHECKING:
    from toolkit.training.trainer import Trainer

logger = logging.getLogger(__name__)
NETWORK = "network.json"  # in the work dir: the tokenizer's config as data, where config.py is code


def claim(work_dir: Path, *, patience: float = 10.0) -> TextIO:
    """Lock a work dir for this process, as long as the file that is returned is open and the process lives.

    The lock is POSIX's, which loader workers do not inherit and which no kill leaves behind.

    Args:
        work_dir: Exists.
        patience: Seconds to wait for another process, which may be about to end.

    Raises:
        ConfigError: If another process has it.

    Example:
        >>> import tempfile
        >>> with claim(Path(tempfile.mkdtemp())) as file:
        ...     Path(file.name).name
        '.lock'
    """
    file = (work_dir / ".lock").open("a+")
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (BlockingIOError, PermissionError):  # which of them is the system's choice
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise ConfigError(f"{work_dir} is being written by {owner}; wait until it ends or end it, or give "
                                  "another --work-dir.") from None
            time.sleep(0.2)
    file.truncate(0)
    file.write(f"process {os.getpid()} of {socket.gethostname()}\n")
    file.flush()
    return file


def write_run_metadata(trainer: Trainer, config: Config, *, seed: int) -> None:
    """What the run is, beside its results; each file whole or not at all, as a run goes on from them."""
    saved = trainer.work_dir / "config.py"
    if trainer.step and saved.exists() and saved.read_text() != config.pretty_text:
        logger.warning("the config is not the one in %s, with which the run was going; it is replaced.", saved)
    for name, text in {saved.name: config.pretty_text,
                       NETWORK: json.dumps(trainer.tokenizer.plain.config, indent=2) + "\n",
                       "provenance.json": json.dumps(provenance(seed, trainer), indent=2) + "\n"}.items():
        with atomic_write(trainer.work_dir / name) as part:
            part.write_text(text)


def _git_commit() -> str | None:
    """Of the checkout this package runs from, if it is one."""
    root = Path(toolkit.__file__).parent.parent
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


def provenance(seed: int, trainer: Trainer) -> dict[str, Any]:
    """What produced a run: versions, plugins, commit, seed, command, hardware.

    Example:
        >>> import tempfile
        >>> from toolkit import load_config
        >>> from toolkit.build import build_trainer
        >>> trainer = build_trainer(load_config("configs/demo_video.py"), work_dir=tempfile.mkdtemp())
        >>> provenance(7, trainer)["seed"], provenance(7, trainer)["plugins"]
        (7, {})
    """
    networks = [trainer.tokenizer.plain, trainer.objective,
                *(network.plain for network in trainer.discriminators.values())]
    with torch.random.fork_rng(devices=[]):  # making metrics must not change what the run draws
        metrics = trainer.make_metrics(trainer.tokenizer.plain)
    parts = [*(module for network in networks for module in network.modules()), *metrics,
             *(source.dataset for source in [*trainer.train_loader.sources, *trainer.val_loader.sources])]
    device = trainer.accelerator.device
    return {"toolkit": toolkit.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "plugins": distributions_of(map(type, parts)),
            "git_commit": _git_commit(), "seed": seed, "command": sys.argv,
            "num_processes": trainer.accelerator.num_processes,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or device.type,
            "num_threads": torch.get_num_threads()}

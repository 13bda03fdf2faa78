"""The directory of a run (lock and metadata) and the signals that end the run."""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
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
NETWORK_FILE = "network.json"  # in the work dir: the tokenizer's config, read at --resume
RUN_FILE = "run.json"  # in the work dir: the resolved config and provenance of the run

PR_SET_PDEATHSIG = 1  # prctl(2)
# A signal may arrive twice: a launcher forwards a signal that its processes have received already, and timeout(1)
# signals a process and then its process group.
REPEAT_SECONDS = 2.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.1


def die_with_launcher() -> None:
    """On Linux, let the kernel kill this process when torchrun or ``accelerate launch`` is killed.

    A launcher killed by SIGKILL cannot end its processes, and no signal of the terminal reaches their sessions.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def catch_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that is true after a SIGINT or SIGTERM. A later signal interrupts; quick repeats do not."""
    first_time: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if not first_time:
            first_time.append(time.monotonic())
            logger.warning("stopping after this step, with a checkpoint; Ctrl-C again stops at once, without one.")
        elif time.monotonic() - first_time[0] >= REPEAT_SECONDS:
            signal.signal(number, previous[number])
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(first_time)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def lock_work_dir(work_dir: Path, *, timeout: float = 10.0) -> TextIO:
    """Lock an existing work dir for this process until the returned file is closed or the process ends.

    It is a POSIX lock: loader workers do not inherit it, and a killed process releases it. A ConfigError is raised if
    another process holds the lock for ``timeout`` seconds.
    """
    file = (work_dir / ".lock").open("a+")
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (BlockingIOError, PermissionError):  # the exception depends on the operating system
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise ConfigError(f"{work_dir} is being written by {owner}; wait until it ends, end it, or choose "
                                  "another --work-dir.") from None
            time.sleep(0.2)
    file.truncate(0)
    file.write(f"process {os.getpid()} of {socket.gethostname()}\n")
    file.flush()
    return file


def write_run_metadata(trainer: Trainer, config: Config, *, seed: int) -> None:
    """Write config.py, run.json and network.json, each atomically.

    run.json's ``max_steps`` is the number of optimizer steps, also where the config has ``training.max_flops``. Its
    ``init_source`` is the hub id, revision and commit of ``training.init_from``, or its shipped name and the version of
    this package; None for a local folder.
    """
    resolved = json.loads(json.dumps(config.to_dict(), default=str))
    path = trainer.work_dir / RUN_FILE
    previous = json.loads(path.read_text()) if trainer.step and path.exists() else None
    if previous is not None and previous["config"] != resolved:
        logger.warning("the config differs from the previous one in %s; the file is overwritten.", path)
    source = trainer.tokenizer.network.source  # None when resumed: the checkpoint has the weights
    init_source = source.metadata if source is not None else (previous or {}).get("init_source")
    run = provenance(trainer, seed=seed) | {"max_steps": trainer.settings.max_steps, "init_source": init_source,
                                            "config": resolved}
    for name, text in {"config.py": config.pretty_text,
                       NETWORK_FILE: json.dumps(trainer.tokenizer.network.config, indent=2) + "\n",
                       RUN_FILE: json.dumps(run, indent=2) + "\n"}.items():
        with atomic_write(trainer.work_dir / name) as file:
            file.write_text(text)


def _git_commit() -> str | None:
    """Commit of this package's git checkout; None without one."""
    root = Path(toolkit.__file__).parent.parent
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


def provenance(trainer: Trainer, *, seed: int) -> dict[str, Any]:
    """Versions, plugins, commit, seed, command and hardware of a run."""
    modules = [trainer.tokenizer.network, trainer.objective,
               *(discriminator.network for discriminator in trainer.discriminators.values())]
    with torch.random.fork_rng(devices=[]):  # making metrics must not change the run's random numbers
        metrics = trainer.make_metrics(trainer.tokenizer.network)
    components = [*(child for module in modules for child in module.modules()), *metrics,
                  *(source.dataset for source in [*trainer.train_loader.sources, *trainer.val_loader.sources])]
    device = trainer.accelerator.device
    return {"toolkit": toolkit.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "plugins": distributions_of(map(type, components)),
            "git_commit": _git_commit(), "seed": seed, "command": sys.argv,
            "num_processes": trainer.accelerator.num_processes,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or device.type,
            "num_threads": torch.get_num_threads()}

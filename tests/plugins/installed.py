"""Distributions installed into a folder of their own, without the network, and commands that see them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.commands import ENVIRONMENT, ROOT

# The demo configs' sizes, made tiny.
TINY = ["training.max_steps=1", "training.ema_decay=none", "data.train.batch_size=1", "data.train.num_workers=0",
        "data.train.dataset.num_frames=5", "data.val.batch_size=1", "data.val.dataset.num_frames=5",
        "data.val.dataset.size=32", "data.val.dataset.clips_per_video=1"]


def pip_install(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "--no-index", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def install(folders: Iterable[Path], site: Path) -> Path:
    """Install the distributions in ``folders`` into ``site``, from copies: building leaves files behind."""
    sources = site.with_name(f"{site.name}_sources")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    pip_install("--target", site, *(shutil.copytree(folder, sources / folder.name, ignore=ignored)
                                    for folder in folders))
    return site


def run_with(site: Path, *arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """``python *arguments`` where the distributions of ``site`` are installed beside the toolkit."""
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=cwd,
                          check=False, env={**ENVIRONMENT, "PYTHONPATH": path, **environment})

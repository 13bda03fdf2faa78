"""Run the real commands, in a process of their own or in this one."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def command(tool: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]


def run(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(tool, *arguments), capture_output=True, text=True, timeout=120, check=False,
                          env=ENVIRONMENT)


def run_here(tool: str, *arguments: object) -> str | int | None:
    """What the tool passes to ``sys.exit``: None is success, a text is printed by Python, with exit code 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command(tool, *arguments)[1:])
        try:
            runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
        except SystemExit as ended:
            return ended.code
    return None

"""How much memory a process has needed, for tests that ask it of a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# For ``env``: freed blocks go back to the system at once. By default the allocator of a program with many threads keeps
# up to hundreds of MiB of them, more or fewer from run to run.
KEEP_NOTHING = {"MALLOC_MMAP_THRESHOLD_": "65536"}
_AT_THE_END = "import atexit, peak_memory; atexit.register(lambda: print(peak_memory.peak_mib()))\n"
_AS_A_SCRIPT = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"


def peak_mib() -> float:
    """MiB that this process has had resident at most.

    Not getrusage: its peak begins with that of the process that started this one.
    """
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def peak_of(*arguments: object, env: dict[str, str], code: str = _AS_A_SCRIPT) -> tuple[float, str]:
    """Run ``code``, by default a script and its arguments -> (its peak in MiB, what it printed)."""
    here = f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
    done = subprocess.run([sys.executable, "-c", here + _AT_THE_END + code, *map(str, arguments)], capture_output=True,
                          text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    *printed, peak = done.stdout.splitlines()
    return float(peak), "\n".join(printed)

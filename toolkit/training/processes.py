"""A run's place among other processes: alone in its work dir, and not without its launcher."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from toolkit.config import ConfigError

PR_SET_PDEATHSIG = 1  # prctl(2)


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


def end_with_launcher() -> None:
    """Let this process be killed when torchrun or ``accelerate launch`` is: it would train on where nobody looks.

    A launcher that is killed with -9 cannot end its processes, which are in sessions of their own. On Linux alone.

    Example:
        >>> end_with_launcher()   # there is no launcher: nothing
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

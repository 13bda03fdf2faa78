"""A run's place among other processes: alone in its work dir, and not without its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_launcher() -> None:
    """Let this process be killed when torchrun or ``accelerate launch`` is: it would train on where nobody looks.

    A launcher that is killed with -9 cannot end its processes, which are in sessions of their own. On Linux alone.

    Example:
        >>> end_with_launcher()   # there is no launcher: nothing
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

"""Worker processes of a loader: how signals reach them, and what happens when one is lost."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from toolkit.contracts import DataError

# The second alternative: a worker died while its batch was in transit. An error of the dataset begins with "Caught".
LOST = re.compile(r"^RuntimeError: DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)"
                  r"|^(EOFError|Connection\w*Error): (?!Caught )")


def ignore_outside_signals(worker: int) -> None:
    """A ``worker_init_fn``: the worker ignores SIGINT, and SIGTERM unless its parent sends it.

    Ctrl-C, ``scancel`` and the like signal all processes of a run. Training answers with a last step and a
    checkpoint, for which it needs its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform in ("darwin", "win32"):  # no sigwaitinfo
        return
    # Python's handlers do not know the sender of a signal; sigwaitinfo does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def read_batches(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader; a lost worker is a DataError with its likely cause and what to do.

    Torch's SIGCHLD handler is taken away: it would raise in the middle of a training step or of a checkpoint.
    Without it, the loader notices a lost worker 5 seconds after it began to wait for its batch.
    """
    has_sigchld = sys.platform != "win32"
    before = signal.getsignal(signal.SIGCHLD) if has_sigchld else None
    try:
        gc.freeze()  # a worker that freed a codec of this process would wait for its threads, which fork does not copy
        try:
            batches = iter(loader)
        finally:
            gc.unfreeze()
        if has_sigchld and signal.getsignal(signal.SIGCHLD) is not before:
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
        yield from batches
    except (RuntimeError, EOFError, ConnectionError) as error:
        if not loader.num_workers or not LOST.search(f"{type(error).__name__}: {error}"):
            raise
        raise DataError(f"a data worker was lost, got {error!r}, most likely because the system killed it for want of "
                        "memory; set a smaller num_workers, and continue from the last checkpoint with --resume."
                        ) from error

"""Loader workers that a signal to the whole run leaves alone, and what it means if one is lost."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from toolkit.contracts import DataError

# The second while a batch is on its way from a worker that dies; a dataset's own error says where it was caught.
LOST = re.compile(r"^RuntimeError: DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)"
                  r"|^(EOFError|Connection\w*Error): (?!Caught )")


def shield(number: int) -> None:
    """A ``worker_init_fn``: this worker ends when its parent says so, and not when a terminal or a scheduler does.

    Ctrl-C, ``scancel`` and the like go to all processes of a run. Training answers with a last step and a
    checkpoint, for which it needs its workers.

    Args:
        number: Of the worker; not used.

    Example:
        >>> import torch.multiprocessing as mp
        >>> worker = mp.get_context("fork").Process(target=lambda: (shield(0), os.kill(os.getpid(), signal.SIGTERM)))
        >>> worker.start(); worker.join(); worker.exitcode
        0
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    # Python's handlers do not know who sent a signal; waiting for it tells.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def started(loader: Iterable[Any]) -> Iterator[Any]:
    """The loader's iterator. That a worker is lost is noticed when its batch is waited for, and not before.

    Torch's handler of SIGCHLD raises at once, wherever training happens to be at that moment: in a step, or while a
    checkpoint is written. The loader finds out by itself, 5 seconds after it began to wait.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> next(started(DataLoader([3], batch_size=None)))
        3
    """
    if not hasattr(signal, "SIGCHLD"):  # Windows
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return iterator


@contextmanager
def lost_workers_named(*, num_workers: int) -> Iterator[None]:
    """Torch's error for a worker that is gone, if there are any, as a DataError that says why and what to do.

    Example:
        >>> with lost_workers_named(num_workers=1):
        ...     raise RuntimeError("DataLoader worker (pid(s) 9) exited unexpectedly")
        Traceback (most recent call last):
        toolkit.contracts.data.DataError: a data worker was lost, got RuntimeError('DataLoader worker ...'), ...
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        if not num_workers or not LOST.search(f"{type(error).__name__}: {error}"):
            raise
        raise DataError(f"a data worker was lost, got {error!r}, most likely because the system killed it for want of "
                        "memory; set a smaller num_workers, and go on from the last checkpoint with --resume."
                        ) from error


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)

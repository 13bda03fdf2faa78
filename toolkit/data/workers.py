"""Loader workers that a signal to the whole run leaves alone."""

from __future__ import annotations

import os
import signal
import threading


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


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)

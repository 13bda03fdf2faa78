"""Call a function in two processes of one gloo group, as in data-parallel training."""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist

from toolkit.testing.checks import Check, ContractViolation

TIMEOUT = 120.0  # seconds for both processes
GRACE = 20.0  # seconds for the second, which does as much as the first, once that is done

_workers: list[tuple[Connection, BaseProcess]] = []  # the two processes, kept for the next call


def on_two_processes(check: Check, function: Callable[..., Any], shares: Sequence[Sequence[Any]]) -> list[Any]:
    """Call ``function(*share)`` in each of two processes of one gloo group.

    Torch's generator is seeded with the rank, since processes that train are not to draw alike.
    """
    try:
        payloads = [pickle.dumps((function, share)) for share in shares]
    except (pickle.PicklingError, AttributeError, RuntimeError, TypeError) as error:
        raise check.violation(
            needed="a component that can be sent to another process", got=f"{type(error).__name__} ({error})",
            do="define the class at the top level of a module and keep no lambda, generator or open file in it; or "
               "check with processes=(1,)") from error
    if not _workers:
        _start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _ask(check, payloads, folder)
    except ContractViolation:
        _stop()  # one of them may still be in the middle of it
        raise


def _start() -> None:
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([__name__])  # both then start with torch imported
    for rank in (0, 1):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, rank), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process ends the connection
        _workers.append((ours, process))


@atexit.register
def _stop() -> None:
    for connection, process in _workers:
        connection.close()
        process.kill()
        process.join(5.0)
    _workers.clear()


def _ask(check: Check, payloads: list[bytes], folder: str) -> list[Any]:
    connections = [connection for connection, _ in _workers]
    answers: dict[int, Any] = {}
    deadline = time.monotonic() + TIMEOUT
    try:
        for rank, connection in enumerate(connections):
            connection.send((sys.path, folder, payloads[rank]))
        while waiting := [rank for rank in (0, 1) if rank not in answers]:
            ready = wait([connections[rank] for rank in waiting], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise check.violation(
                    needed="both processes to finish", got=f"process {' and '.join(map(str, waiting))} still waiting "
                    f"after {f'process {next(iter(answers))} was done' if answers else f'{TIMEOUT:g} s'}",
                    do="the processes wait for each other: a collective call is made by one process only; make the "
                       "same calls in the same order on all, whatever their data")
            rank = connections.index(ready[0])
            worked, answers[rank] = connections[rank].recv()
            if not worked:
                raise check.violation(needed="no error on two processes", got=f"this in process {rank}:\n"
                                      f"{answers[rank]}", do="correct the cause named in its last line")
            deadline = min(deadline, time.monotonic() + GRACE)
    except (EOFError, OSError) as error:
        process = _workers[rank][1]
        process.join(1.0)
        raise check.violation(
            needed="two processes that live", got=f"the end of process {rank} (exit code {process.exitcode})",
            do="let all processes make the same collective calls on tensors of the same shape and dtype; in a script, "
               "call the check under if __name__ == '__main__'") from error
    return [answers[0], answers[1]]


def _serve(connection: Connection, rank: int) -> None:
    """Main loop of a process: receive a function, send its result."""
    torch.set_num_threads(1)
    try:
        while True:
            connection.send_bytes(_run(*connection.recv(), rank))
    except (EOFError, OSError):  # the parent process ended
        return


def _run(path: list[str], folder: str, payload: bytes, rank: int) -> bytes:
    try:
        if dist.is_initialized():  # only now: the other process may have needed the last group until its answer
            dist.destroy_process_group()
        sys.path[:] = path  # where the component's class was imported from
        function, share = pickle.loads(payload)
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
                                timeout=timedelta(seconds=2 * TIMEOUT))
        torch.manual_seed(rank)
        return pickle.dumps((True, function(*share)))
    except Exception:  # any failure of the component goes to the process that asked, as text
        return pickle.dumps((False, traceback.format_exc()))

"""Speed and memory of one codec, measured in a separate process."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

MAX_RUNS, MAX_SECONDS = 5, 3.0  # limits of one measurement; no run starts after MAX_SECONDS


def measure_cost(spec: dict[str, Any], pixels: np.ndarray, device: str, num_threads: int) -> dict[str, Any]:
    """Frames per second of encoding and decoding one batch, and the peak memory of both in GiB.

    Speeds are medians of repeated runs after a warm-up. GPU memory is the peak of allocated tensors; CPU memory is the
    peak resident memory of the process, with Python and torch.
    """
    context = multiprocessing.get_context("forkserver")  # "spawn" would count the parent's peak, which outlives exec
    context.set_forkserver_preload(["torch", "toolkit.build", "toolkit.networks", "toolkit.baselines"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, spec, pixels, device, num_threads))
    process.start()
    sender.close()
    try:
        cost, problem = receiver.recv()
    except EOFError:
        problem = "the process ended without an answer, perhaps because there was not enough memory"
    process.join()
    if problem:
        raise RuntimeError(f"measuring speed and memory failed: {problem}")
    return cost


def _child(sender: Connection, spec: dict[str, Any], pixels: np.ndarray, device: str, num_threads: int) -> None:
    try:
        sender.send((_measure_in_child(spec, pixels, device, num_threads), None))
    except Exception as error:  # every error is sent, as the parent waits
        sender.send((None, f"{type(error).__name__}: {error}"))


def _measure_in_child(spec: dict[str, Any], pixels: np.ndarray, device: str, num_threads: int) -> dict[str, Any]:
    import torch

    from toolkit.evaluation.entries import build_codec

    torch.set_num_threads(num_threads)
    batch = torch.from_numpy(pixels).to(device)
    codec, cuda = build_codec(spec, device), torch.device(device).type == "cuda"
    wait = (lambda: torch.cuda.synchronize(device)) if cuda else (lambda: None)
    frames, size = batch.shape[0] * batch.shape[2], tuple(batch.shape[2:])

    def frames_per_second(run: Callable[[], Any]) -> float:
        started, seconds = time.perf_counter(), []
        while len(seconds) < MAX_RUNS and (not seconds or time.perf_counter() - started < MAX_SECONDS):
            before = time.perf_counter()
            run()
            wait()
            seconds.append(time.perf_counter() - before)
        return frames / statistics.median(seconds)

    with torch.no_grad():
        try:
            codes = codec.encode(batch)
            codec.decode(codes, size)  # warm-up
            wait()
            speeds = {"encode_frames_per_second": frames_per_second(lambda: codec.encode(batch)),
                      "decode_frames_per_second": frames_per_second(lambda: codec.decode(codes, size))}
        except NotImplementedError:  # a baseline without encode and decode
            codec(batch)
            speeds = {}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak = torch.cuda.max_memory_allocated(device) if cuda else resident
    return {"throughput": speeds, "peak_memory_gib": peak / 2**30}

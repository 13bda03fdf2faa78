"""Speed and memory of one codec, measured in a process of its own that nothing else has touched."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

REPEATS, SECONDS = 5, 3.0  # at most so many runs, and no new one after so long


def measure_cost(spec: dict[str, Any], pixels: np.ndarray, device: str, num_threads: int) -> dict[str, Any]:
    """Frames per second of encoding and of decoding one batch, and the peak memory of both in GiB.

    Each is the median of repeated runs after a warm-up. On a GPU memory is what its tensors took; on a CPU it is the
    whole process, Python and torch with it.

    Raises:
        RuntimeError: If the process dies, as for want of memory.
    """
    context = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods()
                                          else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["torch", "toolkit.build", "toolkit.networks", "toolkit.baselines.video_codec"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, spec, pixels, device, num_threads))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        found = "it ended without a word, perhaps for want of memory"
    process.join()
    if isinstance(found, str):
        raise RuntimeError(f"measuring speed and memory failed: {found}")
    return found


def _work(sender: Any, spec: dict[str, Any], pixels: np.ndarray, device: str, num_threads: int) -> None:
    try:
        sender.send(_measure(spec, pixels, device, num_threads))
    except Exception as error:  # whatever it is, the parent is waiting for a word
        sender.send(f"{type(error).__name__}: {error}")


def _measure(spec: dict[str, Any], pixels: np.ndarray, device: str, num_threads: int) -> dict[str, Any]:
    import torch
    from contenders import open_codec

    torch.set_num_threads(num_threads)
    batch = torch.from_numpy(pixels).to(device)
    codec, cuda = open_codec(spec, device), torch.device(device).type == "cuda"
    frames = batch.shape[0] * batch.shape[2]

    def seconds(run: Callable[[], Any]) -> float:
        started, found = time.perf_counter(), []
        while len(found) < REPEATS and (not found or time.perf_counter() - started < SECONDS):
            before = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
            found.append(time.perf_counter() - before)
        return statistics.median(found)

    with torch.no_grad():
        codes = codec.encode(batch)
        codec.decode(codes, batch)  # warm-up
        speeds = {"encode_frames_per_second": frames / seconds(lambda: codec.encode(batch)),
                  "decode_frames_per_second": frames / seconds(lambda: codec.decode(codes, batch))}
    if cuda:
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"throughput": speeds, "peak_memory_gib": peak / 2**30}

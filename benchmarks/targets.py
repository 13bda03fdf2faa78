"""What feature metrics have seen of a suite's targets, kept for the next row and the next run."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

States = dict[int, dict[str, dict[str, Tensor]]]  # block -> metric -> name -> tensor


def save_targets(path: Path, states: States) -> None:
    """Write them, whole or not at all; nothing if no metric keeps anything of its targets."""
    tensors = {f"{block}\n{metric}\n{name}": tensor.contiguous() for block, metrics in states.items()
               for metric, state in metrics.items() for name, tensor in state.items()}
    if not tensors:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(tensors, partial, metadata={"blocks": str(len(states))})
    os.replace(partial, path)


def load_targets(path: Path, *, num_blocks: int) -> States | None:
    """What :func:`save_targets` wrote; None if there is no such file, or a damaged one, which is then made anew."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    states: States = {block: {} for block in range(num_blocks)}
    for key, tensor in tensors.items():
        block, metric, name = key.split("\n")
        states[int(block)].setdefault(metric, {})[name] = tensor
    return states

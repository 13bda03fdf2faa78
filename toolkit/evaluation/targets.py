"""Features of a suite's targets, kept for the next row and the next run."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolkit.io.atomic_write import atomic_write

States = dict[int, dict[str, dict[str, Tensor]]]  # block -> metric -> name -> tensor


def save_targets(path: Path, states: States) -> None:
    """Write them; no file if no metric keeps anything of its targets."""
    tensors = {f"{block}\n{metric}\n{name}": tensor.contiguous() for block, metrics in states.items()
               for metric, state in metrics.items() for name, tensor in state.items()}
    if tensors:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            save_file(tensors, partial, metadata={"blocks": str(len(states))})


def load_targets(path: Path, *, num_blocks: int) -> States | None:
    """What :func:`save_targets` wrote; None if the file is missing or damaged: it is then computed again."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    states: States = {block: {} for block in range(num_blocks)}
    for key, tensor in tensors.items():
        block, metric, name = key.split("\n")
        states[int(block)].setdefault(metric, {})[name] = tensor
    return states

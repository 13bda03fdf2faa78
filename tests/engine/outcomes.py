"""The results of a run by name, to compare two runs."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from training.tiny import metric_lines

from toolkit.training.checkpoint import checkpoints_in

# Adam's. A smaller one would turn the rounding of gradients that are zero (biases before a norm) into whole steps.
EPS = 1e-3
CLOCKS = {"step", "time", "seconds_per_step"}


def outcome(work_dir: Path) -> dict[str, Tensor]:
    """Every tensor of the newest checkpoint, the optimizers' included, and every number of the log."""
    checkpoint = checkpoints_in(work_dir / "checkpoints")[-1]
    tensors = {f"{path.stem}: {name}": tensor for path in checkpoint.glob("*.safetensors")
               for name, tensor in load_file(path).items()}
    for network, state in torch.load(checkpoint / "state.pt", weights_only=True)["optimizers"].items():
        group, = state["optimizer"]["param_groups"]
        tensors[f"{network}: learning rate"] = torch.tensor(group["lr"])
        moments = state["optimizer"]["state"].values()
        # As one vector, whose rounding is that of the largest; the root, since squares of small ones vanish.
        squares = torch.cat([each["exp_avg_sq"].flatten() for each in moments])
        tensors |= {f"{network}: gradients": torch.cat([each["exp_avg"].flatten() for each in moments]),
                    f"{network}: squared gradients": squares.sqrt(),
                    f"{network}: steps": torch.stack([each["step"] for each in moments])}
    for line in metric_lines(work_dir):
        where = f"log: {line['split']} {line['modality']} step {line['step']}"
        tensors |= {f"{where} {name}": torch.tensor(float(value)) for name, value in line.items()
                    if name not in CLOCKS and isinstance(value, int | float)}
    return tensors


def differences(one: dict[str, Tensor], other: dict[str, Tensor], *, rel: float = 1e-4, floor: float = 1e-6,
                ) -> dict[str, float]:
    """name -> the largest difference, of what differs by more than ``rel`` of its largest entry, or is in one only."""
    gaps = {name: float("inf") for name in one.keys() ^ other.keys()}
    for name in one.keys() & other.keys():
        left, right = one[name].double(), other[name].double()
        gap = (left - right).abs().max().item()
        if not gap <= rel * right.abs().max().item() + floor:
            gaps[name] = gap
    return gaps

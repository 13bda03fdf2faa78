"""The share of pixels that a reconstruction has outside [-1, 1], with a table column of its own."""

import torch

from toolkit import Column, Metric
from toolkit.layers import sum_over_processes


class Saturation(Metric):
    """Share of the values outside [-1, 1]."""

    higher_is_better = {"saturation": False}
    columns = {"saturation": Column("saturated", format=".1f", factor=100, unit="%")}

    def __init__(self):
        self.reset()

    def update(self, *, target, reconstruction, indices):
        self.sums += torch.tensor([(reconstruction.abs() > 1).sum(), reconstruction.numel()], dtype=torch.float64)

    def compute(self):
        outside, total = sum_over_processes(self.sums.clone()).tolist()
        return {"saturation": outside / total}

    def reset(self):
        self.sums = torch.zeros(2, dtype=torch.float64)

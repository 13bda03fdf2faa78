"""Training: settings, objective, optimizers, checkpoints, log and trainer."""

from toolkit.training.objective import Objective
from toolkit.training.trainer import Trainer

__all__ = ["Objective", "Trainer"]

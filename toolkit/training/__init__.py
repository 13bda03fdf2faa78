"""The objective, the training step and the trainer."""

from toolkit.training.objective import Objective
from toolkit.training.trainer import Trainer

__all__ = ["Objective", "Trainer"]

"""The objective and the trainer."""

from toolkit.training.assemble import build_trainer, train
from toolkit.training.objective import Objective, build_objective
from toolkit.training.trainer import Trainer

__all__ = ["Objective", "Trainer", "build_objective", "build_trainer", "train"]

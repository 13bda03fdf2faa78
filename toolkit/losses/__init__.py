"""Losses: distances of a reconstruction from its target, adversarial losses, and the weight of the generator's loss."""

from toolkit.losses.adaptive import AdaptiveWeight
from toolkit.losses.adversarial import Hinge, NonSaturating
from toolkit.losses.perceptual import LPIPS, LogitDistance
from toolkit.losses.reconstruction import L1, L2

__all__ = ["L1", "L2", "LPIPS", "AdaptiveWeight", "Hinge", "LogitDistance", "NonSaturating"]

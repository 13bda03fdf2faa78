"""Losses, one idea per file: distances of a reconstruction from its target, and the GAN's two sides."""

from toolkit.losses.adversarial import Hinge, NonSaturating
from toolkit.losses.perceptual import LPIPS, LogitDistance
from toolkit.losses.reconstruction import L1, L2

__all__ = ["L1", "L2", "LPIPS", "Hinge", "LogitDistance", "NonSaturating"]

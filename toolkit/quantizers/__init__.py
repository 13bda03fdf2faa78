"""Quantizers, one file each."""

from toolkit.quantizers.lfq import LFQ
from toolkit.quantizers.straight_through import straight_through
from toolkit.quantizers.vq import VQ

__all__ = ["LFQ", "VQ", "straight_through"]

"""Quantizers, one file each."""

from toolkit.quantizers.lfq import LFQ
from toolkit.quantizers.vq import VQ

__all__ = ["LFQ", "VQ"]

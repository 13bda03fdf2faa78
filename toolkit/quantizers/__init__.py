"""Quantizers, one file each."""

from toolkit.quantizers.lfq import LFQ

__all__ = ["LFQ"]

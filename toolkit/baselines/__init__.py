"""Codecs that need no training, one per file: the baselines of every comparison."""

__all__ = []

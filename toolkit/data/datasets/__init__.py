"""Datasets, one kind of source per file."""

__all__ = []

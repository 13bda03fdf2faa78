"""Atomic file writes, prefetching threads and progress bars."""

__all__ = []

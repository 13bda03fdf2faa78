"""Cost of a run, measured without computing it."""

__all__ = []

"""The built-in datasets: what a sample is."""

__all__ = []

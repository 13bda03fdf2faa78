"""Media files to frames and pixels, and back."""

__all__ = []

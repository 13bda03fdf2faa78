"""Reading and writing media files."""

__all__ = []

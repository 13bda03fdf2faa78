"""Files and threads: writing a file whole, reading ahead."""

__all__ = []

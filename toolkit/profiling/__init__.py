"""What a run costs, found without computing it."""

__all__ = []

"""Batches for training and validation: order, mixtures, workers, position."""

__all__ = []

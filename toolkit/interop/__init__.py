"""Checkpoints of other code bases, one file per family: load them here and get the same numbers."""

from toolkit.interop.convert import LAYOUTS, Conversion, convert_checkpoint, convert_tensors, load_checkpoint
from toolkit.interop.files import CheckpointError

__all__ = ["LAYOUTS", "CheckpointError", "Conversion", "convert_checkpoint", "convert_tensors", "load_checkpoint"]

"""Checkpoints of other code bases, one file per family: load them here and get the same numbers."""

from toolkit.interop import o2_magvit2, open_magvit2, praxis, vqgan  # noqa: F401  they register the families
from toolkit.interop.convert import Conversion, convert_checkpoint, convert_tensors, load_checkpoint
from toolkit.interop.files import CheckpointError
from toolkit.interop.layout import Layout

__all__ = ["CheckpointError", "Conversion", "Layout", "convert_checkpoint", "convert_tensors", "load_checkpoint"]

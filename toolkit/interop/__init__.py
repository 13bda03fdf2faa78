"""Checkpoints of other code bases, one file per family: load them here and get the same numbers."""

from toolkit.interop.convert import Conversion, convert_checkpoint, convert_tensors, load_checkpoint
from toolkit.interop.files import CheckpointError
from toolkit.interop.layout import DiscriminatorLayout, Layout
from toolkit.interop.o2_magvit2 import O2MAGVIT2, O2Discriminator
from toolkit.interop.open_magvit2 import OpenMAGVIT2
from toolkit.interop.patchgan import PatchGAN
from toolkit.interop.praxis import Praxis, PraxisDiscriminator
from toolkit.interop.vqgan import IBQ, LlamaGen, Taming

__all__ = ["IBQ", "O2MAGVIT2", "CheckpointError", "Conversion", "DiscriminatorLayout", "Layout", "LlamaGen",
           "O2Discriminator", "OpenMAGVIT2", "PatchGAN", "Praxis", "PraxisDiscriminator", "Taming",
           "convert_checkpoint", "convert_tensors", "load_checkpoint"]

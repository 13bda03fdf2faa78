"""The contracts of every component, and the letters used in every docstring.

====  =========================================================================
B     batch
C     image channels (3)
T H W frames, rows, columns of pixels
d     latent channels
t h w the latent grid: ``(T', H', W')`` after the strides
N     positions, t * h * w
K     codebook size (of one codebook)
G     codebooks per position
====  =========================================================================

Pixels are ``(B, C, T, H, W)`` float in [-1, 1]; an image is T = 1. Latents and codes are
``(B, d, t, h, w)``. Indices are ``(B, *positions, G)`` int64, where the positions of a grid
quantizer are ``(t, h, w)``. A component takes everything but its input by keyword, and has its
constructor arguments in ``config`` (:mod:`toolkit.contracts.component`).
"""

from toolkit.contracts.baseline import Baseline
from toolkit.contracts.checkpoints import CheckpointFamily
from toolkit.contracts.component import Component, constructor_parameters
from toolkit.contracts.data import Column, DataError, Dataset, Metric
from toolkit.contracts.losses import AdversarialLoss, GeneratorWeight, Loss
from toolkit.contracts.networks import Decoder, Discriminator, Encoder
from toolkit.contracts.quantizer import Quantizer, QuantizerOutput, TokenizerOutput

__all__ = ["AdversarialLoss", "Baseline", "CheckpointFamily", "Column", "Component", "DataError", "Dataset", "Decoder",
           "Discriminator", "Encoder", "GeneratorWeight", "Loss", "Metric", "Quantizer", "QuantizerOutput",
           "TokenizerOutput", "constructor_parameters"]

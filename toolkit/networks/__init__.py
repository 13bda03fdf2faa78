"""Encoders, decoders and discriminators."""

from toolkit.networks.discriminators import StyleGANDiscriminator
from toolkit.networks.magvit2 import MAGVIT2Decoder, MAGVIT2Encoder

__all__ = ["MAGVIT2Decoder", "MAGVIT2Encoder", "StyleGANDiscriminator"]

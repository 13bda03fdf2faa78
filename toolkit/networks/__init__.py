"""Encoders, decoders and discriminators."""

from toolkit.networks.discriminators import StyleGANDiscriminator
from toolkit.networks.magvit2 import MAGVIT2Decoder, MAGVIT2Encoder
from toolkit.networks.patchgan import PatchGANDiscriminator
from toolkit.networks.vqgan import VQGANDecoder, VQGANEncoder

__all__ = ["MAGVIT2Decoder", "MAGVIT2Encoder", "PatchGANDiscriminator", "StyleGANDiscriminator", "VQGANDecoder",
           "VQGANEncoder"]

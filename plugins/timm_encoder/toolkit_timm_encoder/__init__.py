"""An encoder on any timm backbone's features, a small decoder, and an alignment of latents to frozen features."""

from toolkit_timm_encoder.alignment import FeatureAlignment
from toolkit_timm_encoder.decoder import TimmDecoder
from toolkit_timm_encoder.encoder import TimmEncoder
from toolkit_timm_encoder.features import TimmFeatures

__all__ = ["FeatureAlignment", "TimmDecoder", "TimmEncoder", "TimmFeatures"]

"""Codecs that need no training: the baselines of every comparison."""

from toolkit.baselines.thumbnail import MeanColour, Thumbnail
from toolkit.baselines.video_codec import VideoCodec

__all__ = ["MeanColour", "Thumbnail", "VideoCodec"]

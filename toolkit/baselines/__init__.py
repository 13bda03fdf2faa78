"""Codecs that need no training, one per file: the baselines of every comparison."""

from toolkit.baselines.mean_colour import MeanColour
from toolkit.baselines.thumbnail import Thumbnail
from toolkit.baselines.video_codec import VideoCodec

__all__ = ["MeanColour", "Thumbnail", "VideoCodec"]

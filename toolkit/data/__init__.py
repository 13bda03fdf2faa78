"""Data: images, clips, and clips made from photos or random numbers; loaders that batch them."""

from toolkit.data.datasets.files import Images, InMemoryClips, VideoClips, sample_clips
from toolkit.data.datasets.photos import PhotoClips
from toolkit.data.datasets.shards import ImageShards, VideoShards
from toolkit.data.datasets.synthetic import SyntheticClips
from toolkit.data.loading.loader import TrainLoader, ValLoader
from toolkit.data.loading.sampling import Batch, Source
from toolkit.data.reading.images import read_image
from toolkit.data.reading.media import iter_frames, open_media, read_video
from toolkit.data.reading.writing import VideoWriter, write_image, write_video

__all__ = ["Batch", "ImageShards", "Images", "InMemoryClips", "PhotoClips", "Source", "SyntheticClips", "TrainLoader",
           "ValLoader", "VideoClips", "VideoShards", "VideoWriter", "iter_frames", "open_media", "read_image",
           "read_video", "sample_clips", "write_image", "write_video"]

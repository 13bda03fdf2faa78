"""Data: clips and images from files, the sample clips, and the loaders that draw batches of them."""

from toolkit.data.datasets.images import Images, read_image, write_image
from toolkit.data.datasets.in_memory import InMemoryClips
from toolkit.data.datasets.sample_clips import sample_clips
from toolkit.data.datasets.shards import ImageShards, VideoShards
from toolkit.data.datasets.videos import VideoClips
from toolkit.data.loading.loader import TrainLoader, ValLoader
from toolkit.data.loading.mixture import Source
from toolkit.data.loading.sampling import Batch
from toolkit.data.reading.media import open_media
from toolkit.data.reading.video_io import VideoWriter, iter_frames, read_video, write_video

__all__ = ["Batch", "ImageShards", "Images", "InMemoryClips", "Source", "TrainLoader", "ValLoader", "VideoClips",
           "VideoShards", "VideoWriter", "iter_frames", "open_media", "read_image", "read_video", "sample_clips",
           "write_image", "write_video"]

"""Data: clips and images from files, the sample clips, and the loaders that draw batches of them."""

from toolkit.data.images import Images, read_image, write_image
from toolkit.data.loader import TrainLoader, ValLoader
from toolkit.data.media import open_media
from toolkit.data.memory import InMemoryClips
from toolkit.data.mixture import Source
from toolkit.data.samples import sample_clips
from toolkit.data.sampling import Batch
from toolkit.data.shard_sets import ImageShards, VideoShards
from toolkit.data.video_io import VideoWriter, iter_frames, read_video, write_video
from toolkit.data.videos import VideoClips

__all__ = ["Batch", "ImageShards", "Images", "InMemoryClips", "Source", "TrainLoader", "ValLoader", "VideoClips",
           "VideoShards", "VideoWriter", "iter_frames", "open_media", "read_image", "read_video", "sample_clips",
           "write_image", "write_video"]

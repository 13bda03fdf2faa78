"""Images and clips from tars in webdataset's layout, split over all readers, with a position that can be saved."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils.data
from torch import Tensor

from toolkit.contracts import DataError, Dataset
from toolkit.data.reading.clips import Clipping
from toolkit.data.reading.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Paths, list_files, path_in_errors
from toolkit.data.reading.images import FirstFrames
from toolkit.data.reading.media import open_video
from toolkit.data.reading.tar import Member, index_tar
from toolkit.data.reading.transforms import Framing
from toolkit.data.seeding import mix, seeded
from toolkit.registry import DATASETS


class Shards(Dataset, torch.utils.data.IterableDataset):
    """Samples from uncompressed tars, each read from its offset in the file: nothing is unpacked.

    All readers together read every sample once per pass. The shards of a pass, laid end to end, are cut into
    one segment per reader, all of equal length: a reader opens few shards, and readers share a shard where
    there are more readers than shards.

    Training draws a new order of the shards, and of the samples within each, in every pass; samples of one shard
    stay together, so write them in random order. Evaluation keeps the order of the files.

    A subclass sets ``modality`` and the ``suffixes`` of its files, and writes ``frames``.
    """

    suffixes: tuple[str, ...]

    def __init__(self, *, path: Paths, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, train: bool = True, flip: float = 0.5,
                 channel_shuffle: float = 0.0):
        self.files, self.train = list_files(path, suffixes=(".tar",)), train
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)
        self.sample_size = (1, *self.framing.size)
        self.index, self.count = 0, 1
        self.first_frame = FirstFrames()  # of the images; copies share it, so that it logs once

    @abstractmethod
    def frames(self, content: bytes, *, name: str) -> Sequence[Tensor]:
        """T frames (H, W, 3) uint8 of a file; ``name`` is its path in error messages."""

    def shard(self, index: int, count: int) -> Shards:
        """A copy that reads share ``index`` of ``count`` of every pass."""
        reader = copy.copy(self)
        reader.index, reader.count = index, count
        return reader

    def __iter__(self) -> ShardIterator:
        return ShardIterator(self)


class ShardIterator(Iterator[dict[str, Tensor | str]]):
    """One reader's share of a pass, with the state of torchdata's ``Stateful``.

    A shard's headers are read at its first sample, and again after a resume. An unreadable sample or shard raises
    a DataError, and the next call continues after it. The order, and the random numbers of a sample, follow from
    torch's global generator at construction; they do not depend on the number of readers.
    """

    def __init__(self, dataset: Shards):
        self.dataset, self.index, self.count = dataset, dataset.index, dataset.count
        self.num_shards = len(dataset.files)
        self.seed, self.order = 0, list(range(self.num_shards))
        if dataset.train:
            self.seed, self.order = int(torch.randint(2**62, ())), torch.randperm(self.num_shards).tolist()
        self.shard, self.done = self.index * self.num_shards // self.count, 0  # place in ``order``, samples read of it
        self._members: list[Member] | None = None  # this reader's share of the current shard

    def __next__(self) -> dict[str, Tensor | str]:
        """{"pixels": (C, T, H, W) float32 in [-1, 1], "key": tar/member}."""
        while self.shard * self.count < (self.index + 1) * self.num_shards:
            if self._members is None:
                self._members, self._error = self._share()
            if self.done < len(self._members):
                self.done += 1
                return self._read(self._members[self.done - 1])
            self.shard, self.done, self._members = self.shard + 1, 0, None
            if self._error is not None:
                raise self._error
        raise StopIteration

    def _share(self) -> tuple[list[Member], DataError | None]:
        number = self.order[self.shard]
        members, error = index_tar(self.dataset.files[number], suffixes=self.dataset.suffixes)
        if self.dataset.train:
            generator = torch.Generator().manual_seed(mix(self.seed, "order", number))
            members = [members[place] for place in torch.randperm(len(members), generator=generator).tolist()]
        # With shards of length ``count`` and segments of length ``num_shards``, all cuts are whole numbers, so no
        # sample is read twice or skipped.
        first, last = (min(max(reader * self.num_shards - self.shard * self.count, 0), self.count)
                       for reader in (self.index, self.index + 1))
        return members[len(members) * first // self.count:len(members) * last // self.count], error

    def _read(self, member: Member) -> dict[str, Tensor | str]:
        number = self.order[self.shard]
        file = self.dataset.files[number]
        name = f"{file}/{member.name}"
        with seeded(mix(self.seed, "sample", number, member.start)), path_in_errors(name):
            return {"pixels": self.dataset.framing(self.dataset.frames(member.read(file), name=name)), "key": name}

    def state_dict(self) -> dict[str, int]:
        """The position in a pass: the place of the current shard in the order, and this reader's samples read of it."""
        return {"num_shards": self.num_shards, "num_readers": self.count, "shard": self.shard, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue in the same pass where ``state`` was saved; a ValueError for other numbers of shards or readers."""
        if (state["num_shards"], state["num_readers"]) != (self.num_shards, self.count):
            raise ValueError(f"the saved position is in {state['num_shards']} shards with {state['num_readers']} "
                             f"readers (processes times workers), got {self.num_shards} and {self.count}; resume with "
                             "the shards, processes and num_workers of the run.")
        self.shard, self.done, self._members = state["shard"], state["done"], None


@DATASETS.register_module()
class ImageShards(Shards):
    """Images from tars in webdataset's layout (``KEY.jpg``, ``KEY.json``, ...), as clips of one frame.

    Processes and workers share each pass; the position is saved with a checkpoint.

    Args:
        path: Tars, for example ``shards-{000..099}.tar``; see :func:`toolkit.data.reading.files.list_files`.
        size, short_edge, flip, channel_shuffle: See :class:`toolkit.data.reading.transforms.Framing`.
        train: Random order, crop and flip; False: the order of the files and the centre crop.

    Nothing at ``path``, or a member that is no image or a damaged shard when it is read, raises a DataError; a number
    out of range a ValueError.

    Example:
        >>> import tarfile, tempfile
        >>> from toolkit.data import write_image
        >>> folder = tempfile.mkdtemp()
        >>> write_image(f"{folder}/0.png", torch.zeros(3, 1, 40, 48))
        >>> with tarfile.open(f"{folder}/shard-0.tar", "w") as tar:
        ...     tar.add(f"{folder}/0.png", "0.png")
        >>> sample, = ImageShards(path=folder, size=32, train=False)
        >>> sample["pixels"].shape, sample["key"][-17:]
        (torch.Size([3, 1, 32, 32]), 'shard-0.tar/0.png')
    """

    modality, suffixes = "image", IMAGE_SUFFIXES

    def frames(self, content: bytes, *, name: str) -> Tensor:
        """(1, H, W, 3) uint8."""
        return self.first_frame(content, name=name)


@DATASETS.register_module()
class VideoShards(Shards):
    """Clips from tars of videos in webdataset's layout (``KEY.mp4``, ``KEY.json``, ...).

    They are read as by ``ImageShards``, with the same errors; a video that is too short is a DataError too. Each
    video gives one clip per pass, in evaluation the one in the middle; its bytes are in memory while it is read.

    Args:
        path, size, short_edge, train, flip, channel_shuffle: See ``ImageShards``.
        num_frames, frame_stride, fps: See ``VideoClips``.

    Example:
        >>> import tarfile, tempfile
        >>> from toolkit.data import sample_clips
        >>> path = f"{tempfile.mkdtemp()}/shard-0.tar"
        >>> with tarfile.open(path, "w") as tar:
        ...     tar.add(sample_clips("eval")[0], "carphone.mp4")
        >>> next(iter(VideoShards(path=path, num_frames=5, size=32, train=False)))["pixels"].shape
        torch.Size([3, 5, 32, 32])
    """

    modality, suffixes = "video", VIDEO_SUFFIXES

    def __init__(self, *, path: Paths, num_frames: int = 17, size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, frame_stride: int = 1, fps: float | None = None,
                 train: bool = True, flip: float = 0.5, channel_shuffle: float = 0.0):
        super().__init__(path=path, size=size, short_edge=short_edge, train=train, flip=flip,
                         channel_shuffle=channel_shuffle)
        self.clipping = Clipping(num_frames=num_frames, frame_stride=frame_stride, fps=fps, train=train)
        self.sample_size = (num_frames, *self.framing.size)

    def frames(self, content: bytes, *, name: str) -> Sequence[Tensor]:
        """T frames (H, W, 3) uint8 of a clip."""
        with open_video(content, name=name) as video:
            return self.clipping(video)

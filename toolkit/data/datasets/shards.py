"""Images and clips from tars in webdataset's layout, split over all readers, with a position that can be saved."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils.data
from torch import Tensor

from toolkit.contracts import DataError, Dataset
from toolkit.data.datasets.images import IMAGE_SUFFIXES, image_frame
from toolkit.data.datasets.videos import Clipping
from toolkit.data.loading.sampling import mix, seeded
from toolkit.data.reading.files import about, list_files
from toolkit.data.reading.tar import Member, index_tar
from toolkit.data.reading.transforms import Framing
from toolkit.data.reading.video_file import VIDEO_SUFFIXES, VideoFile
from toolkit.registry import DATASETS


class Shards(Dataset, torch.utils.data.IterableDataset):
    """Samples from uncompressed tars, each read from its place in the file: nothing is unpacked.

    A pass has every sample once, over all readers. The shards of a pass, laid end to end, are cut into as many
    equal lengths as there are readers, so a reader opens few shards, and where there are fewer shards than readers
    these share one.

    Training draws the order of the shards, and of the samples within each, anew in every pass. Samples of one
    shard stay together, so they should have been written in no particular order. Evaluation keeps the order of
    the files.

    A subclass has a ``modality``, the ``suffixes`` of its files, a ``framing``, and says how a file becomes frames.

    Args:
        path: Tars, as :func:`toolkit.data.reading.files.list_files` has them.
        train: Random order.

    Example:
        >>> import io, tarfile, tempfile
        >>> class Bytes(Shards):   # a file's bytes as grey pixels
        ...     modality, suffixes, framing = "image", (".raw",), Framing(size=2)
        ...     def frames(self, content, *, name):
        ...         return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(1, 2, 2, 1).expand(1, 2, 2, 3)
        >>> path = os.path.join(tempfile.mkdtemp(), "a.tar")
        >>> with tarfile.open(path, "w") as tar:
        ...     for number in range(3):
        ...         member = tarfile.TarInfo(f"{number}.raw")
        ...         member.size = 4
        ...         tar.addfile(member, io.BytesIO(bytes([number] * 4)))
        >>> dataset = Bytes(path=path, train=False)
        >>> dataset.shard(index=1, count=2)   # the second of two readers
        >>> [sample["key"][-5:] for sample in dataset]
        ['1.raw', '2.raw']
    """

    suffixes: tuple[str, ...]
    framing: Framing

    def __init__(self, *, path: str | os.PathLike | Sequence[str | os.PathLike], train: bool):
        self.files, self.train = list_files(path, suffixes=(".tar",)), train
        self.index, self.count = 0, 1

    @abstractmethod
    def frames(self, content: bytes, *, name: str) -> Sequence[Tensor]:
        """T frames (H, W, 3) uint8 of a file; a DataError calls it ``name``."""

    def shard(self, *, index: int, count: int) -> None:
        """Keep one of ``count`` shares of every pass that begins from now on."""
        self.index, self.count = index, count

    def __iter__(self) -> ShardIterator:
        return ShardIterator(self)


class ShardIterator:
    """One reader's share of a pass; a shard's headers are read when its turn comes, and again after a resume.

    An unreadable sample or shard raises a DataError, and the next call goes on behind it. The order, and what a
    sample draws, follow from torch's global generator as it is at construction, whoever reads the sample.
    """

    def __init__(self, dataset: Shards):
        self.dataset, self.index, self.count = dataset, dataset.index, dataset.count
        self.num_shards = len(dataset.files)
        self.seed, self.order = 0, list(range(self.num_shards))
        if dataset.train:
            self.seed, self.order = int(torch.randint(2**62, ())), torch.randperm(self.num_shards).tolist()
        self.turn, self.taken = self.index * self.num_shards // self.count, 0
        self._members: list[Member] | None = None  # this reader's share of the shard whose turn it is

    def __iter__(self) -> ShardIterator:
        return self

    def __next__(self) -> dict[str, Tensor | str]:
        """{"pixels": (C, T, H, W) float32 in [-1, 1], "key": tar/member}."""
        while self.turn * self.count < (self.index + 1) * self.num_shards:
            if self._members is None:
                self._members, self._fault = self._share()
            if self.taken < len(self._members):
                self.taken += 1
                return self._read(self._members[self.taken - 1])
            self.turn, self.taken, self._members = self.turn + 1, 0, None
            if self._fault is not None:
                raise self._fault
        raise StopIteration

    def _share(self) -> tuple[list[Member], DataError | None]:
        number = self.order[self.turn]
        members, fault = index_tar(self.dataset.files[number], suffixes=self.dataset.suffixes)
        if self.dataset.train:
            generator = torch.Generator().manual_seed(mix(self.seed, "order", number))
            members = [members[place] for place in torch.randperm(len(members), generator=generator).tolist()]
        # Shards are of length ``count``, readers of length ``num_shards``: both are whole numbers, so no sample
        # is cut twice or left out.
        first, last = (min(max(reader * self.num_shards - self.turn * self.count, 0), self.count)
                       for reader in (self.index, self.index + 1))
        return members[len(members) * first // self.count:len(members) * last // self.count], fault

    def _read(self, member: Member) -> dict[str, Tensor | str]:
        number = self.order[self.turn]
        file = self.dataset.files[number]
        name = f"{file}/{member.name}"
        with seeded(mix(self.seed, "sample", number, member.start)), about(name):
            return {"pixels": self.dataset.framing(self.dataset.frames(member.read(file), name=name)), "key": name}

    def state_dict(self) -> dict[str, int]:
        """The position in a pass: which shard of its order, and how many of this reader's samples of it are taken."""
        return {"shards": self.num_shards, "readers": self.count, "turn": self.turn, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was saved, in the same pass.

        Raises:
            ValueError: If there were other numbers of shards or of readers.
        """
        if (state["shards"], state["readers"]) != (self.num_shards, self.count):
            raise ValueError(f"the saved position is in {state['shards']} shards with {state['readers']} readers "
                             f"(processes times workers), got {self.num_shards} and {self.count}; resume with the "
                             "shards, processes and num_workers of the run.")
        self.turn, self.taken, self._members = state["turn"], state["taken"], None


@DATASETS.register_module()
class ImageShards(Shards):
    """Images from tars in webdataset's layout (``KEY.jpg``, ``KEY.json``, ...), as clips of one frame.

    Every process and every worker reads its own part of each pass; the position is saved with a checkpoint.

    Args:
        path: Tars: a pattern in braces (``shards-{000..099}.tar``), a folder (searched recursively), a glob, a list
            file (``.txt``, one path per line, relative to it), a file, or a list of those.
        size, short_edge, flip, channel_shuffle: As ``Images``'s.
        train: Random order, crop and flip; False: the order of the files and the centre crop.

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a member is no image or a shard is torn.
        ValueError: If the numbers do not fit each other.

    Example:
        >>> import io, tarfile, tempfile
        >>> from PIL import Image
        >>> path = os.path.join(tempfile.mkdtemp(), "shard-0.tar")
        >>> with tarfile.open(path, "w") as tar:
        ...     for number in range(3):
        ...         file = io.BytesIO()
        ...         Image.new("RGB", (48, 40)).save(file, "png")
        ...         member = tarfile.TarInfo(f"{number}.png")
        ...         member.size = file.tell()
        ...         tar.addfile(member, io.BytesIO(file.getvalue()))
        >>> [sample["key"][-5:] for sample in ImageShards(path=path, size=32, train=False)]
        ['0.png', '1.png', '2.png']
    """

    modality, suffixes = "image", IMAGE_SUFFIXES

    def __init__(self, *, path: str | os.PathLike | Sequence[str | os.PathLike], size: int | tuple[int, int] = 128,
                 short_edge: int | tuple[int, int] | None = None, train: bool = True, flip: float = 0.5,
                 channel_shuffle: float = 0.0):
        super().__init__(path=path, train=train)
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)

    def frames(self, content: bytes, *, name: str) -> Tensor:
        """(1, H, W, 3) uint8."""
        return image_frame(content, name=name)


@DATASETS.register_module()
class VideoShards(Shards):
    """Clips from tars of videos in webdataset's layout (``KEY.mp4``, ``KEY.json``, ...).

    Every process and every worker reads its own part of each pass; the position is saved with a checkpoint. In a
    pass each video gives one clip; its bytes are held in memory while that is read.

    Args:
        path: Tars: a pattern in braces (``shards-{000..099}.tar``), a folder (searched recursively), a glob, a list
            file (``.txt``, one path per line, relative to it), a file, or a list of those.
        num_frames, size, short_edge, frame_stride, fps, flip, channel_shuffle: As ``VideoClips``'s.
        train: Random order, clips and crops; False: the order of the files, the clip in the middle and the
            centre crop.

    Raises:
        DataError: If there is nothing at ``path``; on reading, if a member is no video or too short, or a shard is
            torn.
        ValueError: If the numbers do not fit each other.

    Example:
        >>> import tarfile, tempfile
        >>> from toolkit.data import sample_clips
        >>> path = os.path.join(tempfile.mkdtemp(), "shard-0.tar")
        >>> with tarfile.open(path, "w") as tar:
        ...     tar.add(sample_clips("eval")[0], "carphone.mp4")
        >>> sample, = VideoShards(path=path, num_frames=5, size=32, train=False)
        >>> sample["pixels"].shape
        torch.Size([3, 5, 32, 32])
    """

    modality, suffixes = "video", VIDEO_SUFFIXES

    def __init__(self, *, path: str | os.PathLike | Sequence[str | os.PathLike], num_frames: int = 17,
                 size: int | tuple[int, int] = 128, short_edge: int | tuple[int, int] | None = None,
                 frame_stride: int = 1, fps: float | None = None, train: bool = True, flip: float = 0.5,
                 channel_shuffle: float = 0.0):
        super().__init__(path=path, train=train)
        self.clipping = Clipping(num_frames=num_frames, frame_stride=frame_stride, fps=fps, train=train)
        self.framing = Framing(size=size, short_edge=short_edge, train=train, flip=flip,
                               channel_shuffle=channel_shuffle)

    def frames(self, content: bytes, *, name: str) -> Sequence[Tensor]:
        """T frames (H, W, 3) uint8 of a clip."""
        with VideoFile(content, name=name) as video:
            return self.clipping(video)

"""Tars of media to read from, and tars of tokens to write and to read (webdataset's layout).

A sample of tokens is two members, ``KEY.indices.npy`` and ``KEY.json``. Tars are read with Python's own
``tarfile``: nothing is unpacked or executed, and arrays are mapped, so that a long video costs no memory.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import tarfile
import tokenize
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from toolkit.contracts import DataError
from toolkit.data.reading.files import unreadable

PARTIAL = ".partial."  # how the name of a file that is being written begins
# What tarfile raises for headers that are damaged: the last four for numbers that are none, for sizes that no memory
# or file has, and for headers of headers of headers.
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, MemoryError, OverflowError, RecursionError)


def media_in_tar(path: str | os.PathLike, *, suffixes: tuple[str, ...],
                 name: str | os.PathLike | None = None) -> Iterator[tuple[str, bytes]]:
    """The files of a tar, one after the other, never unpacked; compressed ones too.

    Args:
        path: The tar; what ``tarfile`` can open.
        suffixes: Lower-case endings that count. Hidden names are left out.
        name: What errors call the tar; None: ``path``.

    Yields:
        (name within the tar, all of the file's bytes).

    Raises:
        DataError: If it is no tar, or torn; the files before the tear come first.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "a.tar")
        >>> with tarfile.open(path, "w") as tar:
        ...     tar.addfile(tarfile.TarInfo("./a/0.PNG")), tar.addfile(tarfile.TarInfo("a/0.txt"))
        (None, None)
        >>> list(media_in_tar(path, suffixes=(".png",)))
        [('a/0.PNG', b'')]
    """
    with _tar_errors(name or path, needed="a tar"), tarfile.open(path, "r|*") as tar:
        for member in _files(tar, suffixes=suffixes):
            yield str(PurePosixPath(member.name)), tar.extractfile(member).read()


@dataclass(frozen=True)
class Member:
    """A file of a tar, and where its bytes are.

    Attributes:
        name: Within the tar.
        start, size: Of its bytes.

    Example:
        >>> Member("a/0.left.png", start=512, size=9).key   # as webdataset has it: up to the first dot
        'a/0'
    """

    name: str
    start: int
    size: int

    @property
    def key(self) -> str:
        """What the members of one sample have in common."""
        folder, slash, file = self.name.rpartition("/")
        return folder + slash + file.partition(".")[0]

    def read(self, tar: str | os.PathLike) -> bytes:
        """All of its bytes, those before it untouched.

        Raises:
            DataError: If ``tar`` cannot be read, or has become shorter.
        """
        try:
            with open(tar, "rb") as file:
                file.seek(self.start)
                content = file.read(self.size)
        except OSError as error:
            raise unreadable(tar, f"needed the tar as it was, got {error.strerror}; put it back.") from error
        if len(content) < self.size:
            raise unreadable(f"{tar}/{self.name}", f"needed {self.size} bytes, got {len(content)}; the tar has become "
                                                   "shorter, so write it again.")
        return content


def index_tar(path: str | os.PathLike, *, suffixes: tuple[str, ...]) -> tuple[list[Member], DataError | None]:
    """Where the samples of a tar are, by its headers alone; a sample's members have one key and lie side by side.

    Args:
        path: The tar, uncompressed.
        suffixes: Lower-case endings that count. Of several members of a key, the one with the fewest dots is
            taken, of those the first: ``0.jpg`` and not ``0.depth.png``.

    Returns:
        A member per sample, in order; and what is wrong with the tar, if anything: it is none, it is torn
        behind these members, or it has none.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "a.tar")
        >>> with tarfile.open(path, "w") as tar:
        ...     for name in ("0.depth.png", "0.jpg", "0.json", "1.jpg"):
        ...         tar.addfile(tarfile.TarInfo(name))
        >>> [member.name for member in index_tar(path, suffixes=(".jpg", ".png"))[0]]
        ['0.jpg', '1.jpg']
    """
    samples: list[Member] = []
    try:
        with _tar_errors(path, needed="an uncompressed tar"), tarfile.open(path, "r:") as tar:
            length = os.fstat(tar.fileobj.fileno()).st_size
            for file in _files(tar, suffixes=suffixes):
                if file.offset_data + file.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                member = Member(str(PurePosixPath(file.name)), file.offset_data, file.size)
                if samples and samples[-1].key == member.key:
                    samples[-1] = min(samples[-1], member, key=lambda one: one.name.rpartition("/")[2].count("."))
                else:
                    samples.append(member)
    except DataError as error:
        return samples, error
    if samples:
        return samples, None
    return samples, unreadable(path, f"needed members that end in {', '.join(suffixes)}, got none; leave it out.")


@contextmanager
def _tar_errors(name: str | os.PathLike, *, needed: str) -> Iterator[None]:
    try:
        yield
    except TAR_ERRORS as error:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise unreadable(name, f"needed {needed}, got {problem}; write it again or leave it out.") from error


def _files(tar: tarfile.TarFile, *, suffixes: tuple[str, ...]) -> Iterator[tarfile.TarInfo]:
    """The files of an open tar that count; a ReadError behind them if it is torn."""
    for member in _members(tar):
        file = PurePosixPath(member.name)
        hidden = any(part.startswith(".") and part != ".." for part in file.parts)
        if member.isreg() and file.suffix.lower() in suffixes and not hidden:
            yield member
    # tarfile takes a torn or foreign header for the end, which is a block of zeros and has only zeros behind it
    whole = tar.fileobj.tell() == tar.offset + tarfile.BLOCKSIZE
    while whole and (rest := tar.fileobj.read(2**20)):
        whole = not rest.strip(b"\0")
    if not whole:
        raise tarfile.ReadError("no end of the tar where its files end")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        tar.members = []  # or it remembers all it has seen
        if member.size < 0 or member.issparse():  # would be read for ever, or swell to any size
            raise tarfile.ReadError(f"a member of a size that no file has: {member.name[:100]!r}")
        yield member
        # tarfile would go on behind the end of a stream, which it cannot seek in, to wherever a damaged size says
        while not hasattr(tar.fileobj, "seekable") and tar.fileobj.tell() < tar.offset:
            if not tar.fileobj.read(min(tar.offset - tar.fileobj.tell(), 2**20)):
                raise tarfile.ReadError("unexpected end of data")


def sample_key(name: str) -> str:
    """A name that may have dots -> a key of webdataset, which may not; ``urllib.parse.unquote`` undoes it.

    Example:
        >>> from urllib.parse import unquote
        >>> sample_key("some.folder/a.png"), unquote("some%2Efolder/a%2Epng")
        ('some%2Efolder/a%2Epng', 'some.folder/a.png')
    """
    key = name.replace("%", "%25").replace(".", "%2E")
    return "%5F" + key[1:] if key.startswith("__") else key  # webdataset leaves out __names__


@contextmanager
def written_once(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write to that takes its name when it is whole and on the disk; after an error there is none.

    Its name until then is its own, so that two processes may write one file, and the last one wins.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> with written_once(path) as file:
        ...     _ = file.write(b"{}")
        ...     path.exists()
        False
        >>> [file.name for file in path.parent.iterdir()]
        ['a.json']
    """
    path = Path(path)
    part = path.with_name(f"{PARTIAL}{path.name}.{uuid4().hex}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_npy(file: BinaryIO, chunks: Iterable[np.ndarray]) -> tuple[int, ...]:
    """Write arrays, joined along their first axis, as one ``.npy``, and keep none.

    Args:
        file: Where to, from its beginning; it must be able to go back.
        chunks: (n, ...) of one dtype and shape but for n; at least one.

    Returns:
        The shape of the whole.

    Example:
        >>> file = io.BytesIO()
        >>> write_npy(file, [np.zeros((2, 3), np.int32), np.ones((1, 3), np.int32)])
        (3, 3)
        >>> _ = file.seek(0)
        >>> np.load(file).tolist()
        [[0, 0, 0], [0, 0, 0], [1, 1, 1]]
    """
    def header(chunk: np.ndarray, length: int) -> dict[str, Any]:
        return {"descr": np.lib.format.dtype_to_descr(chunk.dtype), "fortran_order": False,
                "shape": (length, *chunk.shape[1:])}

    length, chunk = 0, None
    for chunk in chunks:
        if length == 0:  # numpy leaves room in it for the first axis to grow
            np.lib.format.write_array_header_1_0(file, header(chunk, 0))
        file.write(np.ascontiguousarray(chunk).data)
        length += len(chunk)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, header(chunk, length))
    return length, *chunk.shape[1:]


class TokenShard:
    """A tar of tokens that is being written: the same samples give the same bytes.

    Args:
        file: Where to.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "tokens.tar")
        >>> indices = io.BytesIO()
        >>> _ = write_npy(indices, [np.arange(4, dtype=np.int32).reshape(1, 2, 2, 1)])
        >>> with open(path, "wb") as file, TokenShard(file) as shard:
        ...     shard.write("clips/0", indices, {"fps": 25.0})
        >>> [(key, indices.shape, meta) for key, indices, meta in read_tokens(path)]
        [('clips/0', (1, 2, 2, 1), {'fps': 25.0})]
    """

    def __init__(self, file: BinaryIO):
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)

    def __enter__(self) -> TokenShard:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._tar.close()

    def write(self, key: str, indices: BinaryIO, meta: dict[str, Any]) -> None:
        """Add a sample: its ``.npy`` as a file, and what is known of it."""
        text = io.BytesIO(json.dumps(meta, sort_keys=True).encode())
        for name, file in ((f"{key}.indices.npy", indices), (f"{key}.json", text)):
            member = tarfile.TarInfo(name)  # of no user and no time
            file.seek(0, os.SEEK_END)
            member.size = file.tell()
            file.seek(0)
            self._tar.addfile(member, file)


def read_tokens(path: str | os.PathLike) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """The samples of a tar of tokens, in order.

    Args:
        path: The tar. ``webdataset.WebDataset`` reads it as well, into memory.

    Yields:
        (key, indices (*positions, G), what is known of the sample). The indices are read from the file
        when they are used, and read-only: ``torch.from_numpy(indices.copy())`` makes a tensor.

    Raises:
        DataError: If it is no such tar, or torn.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "tokens.tar")
        >>> with open(path, "wb") as file, TokenShard(file) as shard:
        ...     for number in range(2):
        ...         indices = io.BytesIO()
        ...         _ = write_npy(indices, [np.full((1, 2, 2, 1), number)])
        ...         shard.write(f"{number}", indices, {"size": [1, 16, 16]})
        >>> for key, indices, meta in read_tokens(path):
        ...     print(key, indices.ravel(), meta["size"])
        0 [0 0 0 0] [1, 16, 16]
        1 [1 1 1 1] [1, 16, 16]
    """
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            sample: dict[str, Any] = {}
            for member in _members(tar):
                kind = member.name.rpartition("/")[2].partition(".")[2]
                if not member.isreg() or kind not in ("indices.npy", "json"):
                    continue
                key = member.name.removesuffix(f".{kind}")
                end = member.offset_data + member.size
                found = _mapped_npy(mapped, member) if kind != "json" else json.loads(mapped[member.offset_data:end])
                sample = {kind: found} if sample.get("key") != key else sample | {kind: found}
                sample["key"] = key
                if len(sample) == 3:
                    if not isinstance(sample["json"], dict):
                        raise ValueError(f"no JSON object for {key}")
                    yield key, sample["indices.npy"], sample["json"]
            if mapped[tar.offset:tar.offset + tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
                raise ValueError("no end of the tar where its files end")
    except (*TAR_ERRORS, tokenize.TokenError) as error:  # the last: no .npy
        raise unreadable(path, f"needed a tar of tokens, got {str(error) or type(error).__name__}; extract them again."
                         ) from error


def _mapped_npy(mapped: mmap.mmap, member: tarfile.TarInfo) -> np.ndarray:
    """The array of a member, without reading it; objects, which would have to be unpickled, are refused."""
    head = io.BytesIO(mapped[member.offset_data:member.offset_data + min(member.size, 2**14)])
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError(f"another version of .npy in {member.name}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    start, size = member.offset_data + head.tell(), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.kind not in "iu" or fortran or head.tell() + size != member.size or start + size > len(mapped):
        raise ValueError(f"{dtype} of shape {shape} in {member.size} bytes where integers are needed: {member.name}")
    return np.ndarray(shape, dtype, buffer=mapped, offset=start)

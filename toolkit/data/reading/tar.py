"""Tars of images and videos (webdataset's layout), read with Python's ``tarfile``: nothing is unpacked or executed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import math
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from toolkit.contracts import DataError
from toolkit.data.reading.files import list_endings, unreadable

# What tarfile raises for damaged tars: ValueError for fields that are no numbers, MemoryError and OverflowError for
# sizes that no memory or file has, RecursionError for headers nested in headers.
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, MemoryError, OverflowError, RecursionError)
# How compressed files and other archives begin.
ARCHIVES = {rb"\x1f\x8b\x08": "gzip", rb"BZh[1-9]1AY&SY": "bzip2", rb"\xfd7zXZ\0|\x5d\0\0\x80": "xz",
            rb"\x28\xb5\x2f\xfd": "zstd", rb"\x04\x22\x4d\x18": "lz4", rb"PK\x03\x04": "zip",
            rb"7z\xbc\xaf": "7z"}
DECOMPRESSORS = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}


def media_in_tar(path: str | os.PathLike, *, suffixes: tuple[str, ...],
                 name: str | os.PathLike | None = None) -> Iterator[tuple[str, bytes]]:
    """(name within the tar, bytes) of each file of a tar, compressed or not, in order.

    Names that are hidden, or do not end in one of ``suffixes`` (lower case), are skipped. A tar that is cut off or
    damaged raises a DataError after the files before that place; ``name`` is what the error calls it, by default
    ``path``.
    """
    with open_tar(path, name=name, compressed=True) as tar:
        for member in _files(tar, suffixes=suffixes):
            yield str(PurePosixPath(member.name)), tar.extractfile(member).read()


@dataclass(frozen=True)
class Member:
    """A file of a tar: its name, and where its bytes start."""

    name: str
    start: int
    size: int

    @property
    def key(self) -> str:
        """webdataset's key, which the members of one sample share: the name up to its first dot."""
        folder, slash, file = self.name.rpartition("/")
        return folder + slash + file.partition(".")[0]

    def read(self, tar: str | os.PathLike) -> bytes:
        """Its bytes, without reading those before it; a DataError if the tar cannot be read or has become shorter."""
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
    """One member per sample of an uncompressed tar, read from its headers alone, and the error that ended the reading.

    The members of a sample have one key and lie side by side. Of several that end in one of ``suffixes`` (lower
    case), the first with the fewest dots counts: ``0.jpg`` and not ``0.depth.png``. The error is None for a whole tar
    with at least one sample.
    """
    samples: list[Member] = []
    try:
        with open_tar(path, needed="an uncompressed tar") as tar:
            for file in _files(tar, suffixes=suffixes):
                member = Member(str(PurePosixPath(file.name)), file.offset_data, file.size)
                if samples and samples[-1].key == member.key:
                    samples[-1] = min(samples[-1], member, key=lambda one: one.name.rpartition("/")[2].count("."))
                else:
                    samples.append(member)
    except DataError as error:
        return samples, error
    if samples:
        return samples, None
    return samples, unreadable(path, f"needed members that end in {list_endings(suffixes)}, got none; leave it out.")


@contextmanager
def open_tar(path: str | os.PathLike, *, name: str | os.PathLike | None = None, needed: str = "a tar",
             advice: str = "write it again or leave it out", compressed: bool = False) -> Iterator[tarfile.TarFile]:
    """A tar, open for :func:`tar_members`; errors while it is open become DataErrors that call it ``name``.

    With ``compressed``, gzip, bzip2 and xz are read too.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(10)
            file.seek(0)
            kind = next((kind for pattern, kind in ARCHIVES.items() if re.match(pattern, start, re.DOTALL)), None)
            if kind is not None and not (compressed and kind in DECOMPRESSORS):
                raise tarfile.ReadError(f"a {kind} file; unpack it")
            with DECOMPRESSORS[kind](file) if kind else contextlib.nullcontext(file) as content:
                yield _open(_TarFile(content, kind=kind, length=os.fstat(file.fileno()).st_size))
    except TAR_ERRORS as error:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise unreadable(name or path, f"needed {needed}, got {problem}; {advice}.") from error


def _open(file: _TarFile) -> tarfile.TarFile:
    if not file.length:
        raise tarfile.ReadError("an empty file")
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except CutOffError as error:
        hint = ", in its first header; or it is no tar" if file.length < tarfile.BLOCKSIZE else ""
        raise CutOffError(f"{error}{hint}") from error
    except tarfile.ReadError as error:
        raise tarfile.ReadError(f"a file that does not begin as a tar ({error})") from error


class CutOffError(tarfile.ReadError):
    """A tar that ends before its members do."""


class _TarFile:
    """The decompressed bytes of a tar. A read beyond the end is an error; tarfile would take it for the tar's end."""

    def __init__(self, file: BinaryIO, *, kind: str | None, length: int):
        self.file, self.kind, self.length = file, kind, length  # compression or None; bytes of the file on disk
        self.last = b""  # the bytes of the last read
        self.tell, self.fileno = file.tell, file.fileno

    def seek(self, position: int) -> None:
        with self._errors():
            self.file.seek(position)

    def read(self, size: int) -> bytes:
        """``size`` bytes."""
        self.last = b"".join(self.pieces(size))
        if len(self.last) < size:
            raise self.cut_off()
        return self.last

    def pieces(self, size: float) -> Iterator[bytes]:
        """At most ``size`` bytes, in pieces."""
        if size < 0:
            raise tarfile.ReadError("a member of a size that no file has")
        with self._errors():
            while size and (piece := self.file.read(int(min(size, 2**20)))):
                yield piece
                size -= len(piece)

    def cut_off(self) -> CutOffError:
        """The error of a tar that ends too early."""
        place = f"byte {self.file.tell()} of its unpacked content" if self.kind else f"byte {self.length}"
        return CutOffError(f"an incomplete one: the tar is cut off at {place}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the decompression into ReadErrors."""
        try:
            yield
        except EOFError:
            raise CutOffError(f"an incomplete one: the tar is cut off at byte {self.length}, in its {self.kind} data"
                              ) from None
        except (*TAR_ERRORS, lzma.LZMAError) as error:
            if self.kind is None:
                raise
            raise tarfile.ReadError(f"damaged {self.kind} data ({error})") from error


def _files(tar: tarfile.TarFile, *, suffixes: tuple[str, ...]) -> Iterator[tarfile.TarInfo]:
    """The visible files of an open tar that end in ``suffixes``."""
    for member in tar_members(tar):
        file = PurePosixPath(member.name)
        hidden = any(part.startswith(".") and part != ".." for part in file.parts)
        if member.isreg() and file.suffix.lower() in suffixes and not hidden:
            yield member


def tar_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar of :func:`open_tar` in order, without keeping them; a ReadError where it is damaged.

    A tar ends with two blocks of zeros. At least one is required: without it, a cut between two members would look like
    the end.
    """
    file: _TarFile = tar.fileobj
    for member in tar:
        tar.members = []  # tarfile would keep all of them
        if member.size < 0 or member.issparse():  # would be read to the end, or grow to any size
            raise tarfile.ReadError(f"a member of a size that no file has: {member.name[:100]!r}")
        if file.kind is None and member.isreg() and member.offset_data + member.size > file.length:
            raise file.cut_off()
        yield member
    if file.last.strip(b"\0"):  # tarfile stops at any block that is no header
        raise tarfile.ReadError(f"no header at byte {tar.offset}, where its next member should start")
    if any(piece.strip(b"\0") for piece in file.pieces(math.inf)):
        raise tarfile.ReadError(f"more data after its end at byte {tar.offset}")

"""Tars of images and videos (webdataset's layout), read with Python's ``tarfile``: nothing is unpacked or executed."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from toolkit.contracts import DataError
from toolkit.data.reading.files import unreadable

# What tarfile raises for damaged headers: the last four for fields that are not numbers, for sizes that no memory or
# file has, and for headers nested in headers.
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, MemoryError, OverflowError, RecursionError)


def media_in_tar(path: str | os.PathLike, *, suffixes: tuple[str, ...],
                 name: str | os.PathLike | None = None) -> Iterator[tuple[str, bytes]]:
    """(name within the tar, bytes) of each file of a tar, compressed or not, in order.

    Names that are hidden, or do not end in one of ``suffixes`` (lower case), are skipped. A tar that is torn raises a
    DataError after the files before the tear; ``name`` is what the error calls it, by default ``path``.
    """
    with _tar_errors(name or path, needed="a tar"), tarfile.open(path, "r|*") as tar:
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
    """The visible files of an open tar that end in ``suffixes``; then a ReadError if the tar is torn."""
    for member in tar_members(tar):
        file = PurePosixPath(member.name)
        hidden = any(part.startswith(".") and part != ".." for part in file.parts)
        if member.isreg() and file.suffix.lower() in suffixes and not hidden:
            yield member
    # tarfile takes a torn or foreign header for the end. The true end is a block of zeros, followed by zeros alone.
    whole = tar.fileobj.tell() == tar.offset + tarfile.BLOCKSIZE
    while whole and (rest := tar.fileobj.read(2**20)):
        whole = not rest.strip(b"\0")
    if not whole:
        raise tarfile.ReadError("no end of the tar where its files end")


def tar_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an open tar in order, without keeping them; a ReadError for a size that cannot be."""
    for member in tar:
        tar.members = []  # tarfile would keep all of them
        if member.size < 0 or member.issparse():  # would be read without end, or grow to any size
            raise tarfile.ReadError(f"a member of a size that no file has: {member.name[:100]!r}")
        yield member
        # In a stream, which cannot seek, tarfile would read past the end as far as a damaged size says.
        while not hasattr(tar.fileobj, "seekable") and tar.fileobj.tell() < tar.offset:
            if not tar.fileobj.read(min(tar.offset - tar.fileobj.tell(), 2**20)):
                raise tarfile.ReadError("unexpected end of data")

"""Writing a file so that it is never seen half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

PARTIAL = ".partial."  # prefix of files that are being written
MAX_NAME = 100  # bytes of a name that the hidden file keeps; file systems allow 255 or fewer


@contextmanager
def atomic_write(path: str | os.PathLike, *, unique: bool = False) -> Iterator[Path]:
    """A hidden file beside ``path``, with the same suffix, that replaces ``path`` at the end of the block.

    After an error it is deleted, and ``path`` is unchanged. The folder of ``path`` must exist; a name that is too long
    for the file system is an OSError before the block. With ``unique`` no other process writes to the same hidden file
    (which then has no suffix), and the last to finish replaces ``path``.
    """
    check_name(path)
    name = Path(path).name
    if len(os.fsencode(name)) > MAX_NAME:
        name = sha256(os.fsencode(name)).hexdigest()[:32] + Path(path).suffix[:16]
    partial = Path(path).with_name(f"{PARTIAL}{name}" + (f".{uuid4().hex}" if unique else ""))
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_name(path: str | os.PathLike) -> None:
    """Raise the OSError of a name that the file system does not allow, such as one that is too long."""
    with suppress(FileNotFoundError):  # a new file
        os.lstat(path)


@contextmanager
def atomic_open(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """:func:`atomic_write` to an open file, which is on the disk before it replaces ``path``; for several processes."""
    with atomic_write(path, unique=True) as partial, partial.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())

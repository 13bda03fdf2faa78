"""Writing a file so that it is never seen half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

PARTIAL = ".partial."  # prefix of files that are being written


@contextmanager
def atomic_write(path: str | os.PathLike, *, unique: bool = False) -> Iterator[Path]:
    """A hidden file beside ``path``, with the same suffix, that replaces ``path`` at the end of the block.

    After an error it is deleted, and ``path`` is unchanged. The folder of ``path`` must exist. With ``unique`` no
    other process writes to the same hidden file (which then has no suffix), and the last to finish replaces ``path``.
    """
    partial = Path(path).with_name(f"{PARTIAL}{Path(path).name}" + (f".{uuid4().hex}" if unique else ""))
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_open(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """:func:`atomic_write` to an open file, which is on the disk before it replaces ``path``; for several processes."""
    with atomic_write(path, unique=True) as partial, partial.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())

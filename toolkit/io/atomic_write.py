"""Writing a file so that it is never seen half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden file beside ``path``, with the same suffix, that replaces ``path`` at the end of the block.

    After an error it is deleted, and ``path`` is unchanged. The folder of ``path`` must exist.
    """
    partial = Path(path).with_name(f".partial.{Path(path).name}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

"""Writing a file so that it is never seen half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden file beside ``path``, of the same ending, to write to: it takes the place of ``path`` at the end.

    After an error it is removed and ``path`` is as it was, so a file of that name is never half written.

    Args:
        path: The file to write; its folder must exist.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_write(path) as part:
        ...     _ = part.write_text("all of it")
        >>> part.name, [file.name for file in path.parent.iterdir()]
        ('.partial.a.txt', ['a.txt'])
    """
    part = Path(path).with_name(f".partial.{Path(path).name}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

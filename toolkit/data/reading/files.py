"""Where samples come from: folders, list files, globs and single files, as one list of paths."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from braceexpand import braceexpand

from toolkit.contracts import DataError

logger = logging.getLogger(__name__)

LIST_SUFFIXES = (".txt", ".list")


def unreadable(path: str | os.PathLike, problem: str) -> DataError:
    """A :class:`DataError` that names its file, and carries the name as ``error.path``.

    Args:
        path: The file.
        problem: What was needed, what was there instead, and what to do about it.

    Example:
        >>> error = unreadable("a.mp4", "needed a video stream, got audio only; leave it out.")
        >>> error, error.path
        (DataError('a.mp4: needed a video stream, got audio only; leave it out.'), 'a.mp4')
    """
    error = DataError(f"{os.fspath(path)}: {problem}")
    error.path = os.fspath(path)
    return error


@contextmanager
def about(path: str | os.PathLike) -> Iterator[None]:
    """A DataError from what is done with a file's content names the file.

    Example:
        >>> with about("a.png"):
        ...     raise DataError("needed a picture, got a line; leave it out.")
        Traceback (most recent call last):
        toolkit.contracts.data.DataError: a.png: needed a picture, got a line; leave it out.
    """
    try:
        yield
    except DataError as error:
        if hasattr(error, "path"):
            raise
        raise unreadable(path, str(error)) from error


def list_files(path: str | os.PathLike | Sequence[str | os.PathLike], *,
               suffixes: tuple[str, ...]) -> list[Path]:
    """All files that ``path`` stands for, in an order that only names decide.

    Args:
        path: A folder (searched recursively, links followed, hidden names left out, and, with a warning, those
            that cannot be listed), a list file
            (``.txt`` or ``.list``: one path per line, relative to the list file; blank lines and
            those that start with ``#`` are skipped), a glob, a pattern in braces such as
            ``shard-{000..099}.tar``, all of which must be there, a single file, or a list of those.
        suffixes: Lower-case endings that count in a folder or a glob. A file that is named singly
            or in a list file may have any.

    Raises:
        DataError: If there is nothing at ``path``, or no file of these kinds.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.mp4", "a.MP4", "notes.md"):
        ...     (folder / name).touch()
        >>> _ = (folder / "some.txt").write_text("# chosen by hand\\nb.mp4\\n")
        >>> [file.name for file in list_files(folder, suffixes=(".mp4",))]
        ['a.MP4', 'b.mp4']
        >>> [file.name for file in list_files(folder / "some.txt", suffixes=(".mp4",))]
        ['b.mp4']
    """
    if not isinstance(path, str | os.PathLike):
        if not path:
            raise DataError("the list of data paths is empty; name a folder, a list file or files.")
        return [file for item in path for file in list_files(item, suffixes=suffixes)]
    files = _expand(Path(path).expanduser(), suffixes)
    if not files:
        raise unreadable(path, f"needed files that end in {', '.join(suffixes)}, got none; "
                               "name a folder, a list file, a glob or a file that has some.")
    return files


def _expand(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if path.is_dir():
        return _walk(path, suffixes)
    if path.is_file():
        return _read_list(path) if path.suffix.lower() in LIST_SUFFIXES else [path]
    if "{" in str(path) and (names := list(braceexpand(str(path)))) != [str(path)]:
        return [file for name in names for file in _expand(Path(name), suffixes)]
    if glob.has_magic(str(path)):
        found = (Path(name) for name in sorted(glob.glob(str(path), recursive=True)))
        return [file for file in found if file.suffix.lower() in suffixes and file.is_file()]
    raise unreadable(path, "needed a folder, a list file, a glob or a file, got a path that does not "
                           f"exist (working directory {Path.cwd()}); correct it.")


def _walk(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    def left_out(error: OSError) -> None:
        logger.warning("left out, a folder that cannot be listed: %s (%s).", error.filename, error.strerror)

    files, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=left_out, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(root, name) for name in names
                  if not name.startswith(".") and Path(name).suffix.lower() in suffixes]
    return sorted(files)


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, f"needed a UTF-8 list of paths, got {error}; write one path per line."
                         ) from error
    names = (line.strip() for line in lines)
    return [path.parent / name for name in names if name and not name.startswith("#")]

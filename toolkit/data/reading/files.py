"""Paths of samples: the files that a path stands for, and the names of what a tool writes for them."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from braceexpand import braceexpand

from toolkit.contracts import DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts",
                  ".wmv", ".flv", ".ogv", ".3gp", ".gif")
MEDIA_SUFFIXES = tuple(dict.fromkeys(IMAGE_SUFFIXES + VIDEO_SUFFIXES))
LIST_SUFFIXES = (".txt", ".list")
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def unreadable(path: str | os.PathLike, problem: str) -> DataError:
    """A :class:`DataError` whose message begins with the path, which is also its ``error.path``."""
    error = DataError(f"{os.fspath(path)}: {problem}")
    error.path = os.fspath(path)
    return error


@contextmanager
def path_in_errors(path: str | os.PathLike) -> Iterator[None]:
    """Add ``path`` to any DataError raised inside that does not name a file yet."""
    try:
        yield
    except DataError as error:
        if error.path is not None:
            raise
        raise unreadable(path, str(error)) from error


def list_files(path: Paths, *, suffixes: tuple[str, ...]) -> list[Path]:
    """All files that ``path`` stands for, in an order that depends on their names only.

    ``path`` is a folder (searched recursively; links are followed, hidden names and folders without permission are
    skipped), a list file (``.txt`` or ``.list``: one path per line, relative to the list file; blank lines and those
    that start with ``#`` are skipped), a glob, a pattern in braces such as ``shard-{000..099}.tar`` (every file must
    exist), a single file, or a list of those. Folders and globs are searched for the lower-case ``suffixes``; single
    and listed files may have any. It raises a DataError if no file is found.
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
        matches = (Path(name) for name in sorted(glob.glob(str(path), recursive=True)))
        return [file for file in matches if file.suffix.lower() in suffixes and file.is_file()]
    raise unreadable(path, "needed a folder, a list file, a glob or a file, got a path that does not "
                           f"exist (working directory {Path.cwd()}); correct it.")


def _walk(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    def warn(error: OSError) -> None:
        logger.warning("skipped, a folder that cannot be listed: %s (%s).", error.filename, error.strerror)

    files, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=warn, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a parent folder would never end
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
        raise unreadable(path, f"needed a UTF-8 list of paths, got {error}; write one path per line.") from error
    names = (line.strip() for line in lines)
    return [path.parent / name for name in names if name and not name.startswith("#")]


def find_files(path: str | os.PathLike, *, output: str | os.PathLike,
               suffixes: tuple[str, ...] = MEDIA_SUFFIXES) -> dict[Path, Path]:
    """The files of :func:`list_files`, each with the output path of its results, without a suffix.

    The subfolders of a folder are kept in ``output``, which need not exist. It may be inside the folder; its files are
    then skipped, and a DataError is raised if no others are left. The output name is the file's without its suffix,
    or with it if two files of a folder would get the same name.
    """
    files = list(dict.fromkeys(Path(os.path.abspath(file)) for file in list_files(path, suffixes=suffixes)))
    root, output = Path(os.path.abspath(Path(path).expanduser())), Path(output)
    if root.is_dir():
        files = [file for file in files if not file.is_relative_to(os.path.abspath(output))]
        if not files:
            raise unreadable(path, f"needed images or videos outside the output folder {output}, got none; "
                                   "write to another folder.")
    else:
        root = Path(os.path.commonpath([file.parent for file in files]))
    # unique also where upper and lower case are not distinguished; a set, as a file may have no suffix
    counts = Counter((file.parent, name.casefold()) for file in files for name in {file.stem, file.name})
    names = [file.stem if counts[file.parent, file.stem.casefold()] == 1 else file.name for file in files]
    return {file: output / file.parent.relative_to(root) / name for file, name in zip(files, names, strict=True)}

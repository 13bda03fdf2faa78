"""Paths of samples: the files that a path stands for, and the names of what a tool writes for them."""

from __future__ import annotations

import errno
import glob
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from braceexpand import braceexpand
from PIL import Image

from toolkit.contracts import DataError

logger = logging.getLogger(__name__)

# Formats of Pillow that are not read: stubs without a reader (BUFR, GRIB, HDF5, WMF), videos (FLI, MPEG), measurements
# of any range (FITS), formats without a clear signature that are no longer in use, and EPS, which runs Ghostscript.
EXCLUDED_FORMATS = {"BUFR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "IM", "IMT", "IPTC", "MCIDAS", "MPEG", "PCD",
                    "SPIDER", "WMF"}
Image.init()  # loads all plugins
IMAGE_FORMATS = tuple(name for name in Image.ID if name not in EXCLUDED_FORMATS)
IMAGE_SUFFIXES = tuple(dict.fromkeys([".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", *sorted(
    suffix for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS),
    ".heic", ".heif", ".hif"]))  # the last need pillow-heif
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts",
                  ".m2ts", ".mxf", ".wmv", ".flv", ".ogv", ".3gp", ".gif", ".apng", ".avifs")
MEDIA_SUFFIXES = tuple(dict.fromkeys(IMAGE_SUFFIXES + VIDEO_SUFFIXES))
LIST_SUFFIXES = (".txt", ".list")
SPECIAL_FILES = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
                 stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder"}
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # after these, no other file could be written either
Paths = str | os.PathLike | Sequence[str | os.PathLike]


def name_of(source: str | os.PathLike | bytes, name: str | os.PathLike | None) -> str | os.PathLike:
    """What error messages call a file: ``name``, by default its path."""
    return name or ("bytes" if isinstance(source, bytes) else source)


def unreadable(path: str | os.PathLike, problem: str) -> DataError:
    """A :class:`DataError` whose message begins with the path, which is also its ``error.path``."""
    error = DataError(f"{os.fspath(path)}: {problem}")
    error.path = os.fspath(path)
    return error


def unwritable(path: str | os.PathLike, error: OSError) -> DataError:
    """The DataError of a file whose results cannot be written; raises ``error`` if no file's results could be."""
    if error.errno in DISK_ERRORS:
        raise error
    return unreadable(path, f"needed a place for its results, got {error}; rename the file or write to another folder.")


@contextmanager
def path_in_errors(path: str | os.PathLike) -> Iterator[None]:
    """Add ``path`` to any DataError raised inside that does not name a file yet."""
    try:
        yield
    except DataError as error:
        if error.path is not None:
            raise
        raise unreadable(path, str(error)) from error


def check_regular(path: str | os.PathLike) -> None:
    """Raise a DataError unless ``path`` is a regular file: reading a pipe, socket or device may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, f"needed a file, got {getattr(error, 'strerror', error)}; correct the path or remove it."
                         ) from error
    if not stat.S_ISREG(mode):
        raise unreadable(path, f"needed a regular file, got {_kind(mode)}; remove it or name a file.")


def _kind(mode: int) -> str:
    return SPECIAL_FILES.get(stat.S_IFMT(mode), "another kind of file")


def list_endings(suffixes: tuple[str, ...]) -> str:
    """At most eight endings in words, for error messages."""
    return ", ".join(suffixes[:8]) + (f" and {len(suffixes) - 8} others" if len(suffixes) > 8 else "")


def list_files(path: Paths, *, suffixes: tuple[str, ...], beside: tuple[str, ...] = (),
               output: str | os.PathLike | None = None) -> list[Path]:
    """All files that ``path`` stands for, in an order that depends on their names only.

    Pipes, sockets and devices are skipped with a warning. One log line counts the visible files of folders and globs
    that have other endings.

    Args:
        path: One of these, or a list of them:

            - a folder, searched recursively; links are followed, hidden names and folders without permission skipped;
            - a list file (``.txt`` or ``.list``, UTF-8): one path per line, relative to the list file; blank lines and
              those that start with ``#`` are skipped;
            - a glob;
            - a pattern in braces such as ``shard-{000..099}.tar``; all of its files must exist;
            - a single file.
        suffixes: Lower-case endings to find in folders and globs. Single and listed files may have any.
        beside: Endings that the log line does not count.
        output: A folder that is not searched.

    Raises:
        DataError: If no file is found, or a single ``path`` is no regular file.
    """
    search = _Search(suffixes, beside=beside, output=output)
    try:
        return search.files(path)
    finally:
        search.log_skipped(path)


class _Search:
    """A search for files of some endings; it counts the visible files of others, except those in ``beside``."""

    def __init__(self, suffixes: tuple[str, ...], *, beside: tuple[str, ...], output: str | os.PathLike | None):
        self.suffixes, self.beside = suffixes, beside
        self.output = None if output is None else os.path.abspath(output)
        self.skipped: Counter[str] = Counter()

    def log_skipped(self, path: Paths) -> None:
        if count := self.skipped.total():
            endings = ", ".join(f"{number} {suffix or 'without an ending'}"
                                for suffix, number in sorted(self.skipped.items()))
            place = path if isinstance(path, str | os.PathLike) else f"{len(path)} paths"
            logger.info("skipped %d file%s with other endings: %s (in %s).", count, "s" * (count > 1), endings, place)

    def files(self, path: Paths) -> list[Path]:
        if not isinstance(path, str | os.PathLike):
            if not path:
                raise DataError("the list of data paths is empty; name a folder, a list file or files.")
            return [file for item in path for file in self.files(item)]
        files = self._expand(Path(os.path.expanduser(path)))
        if not files:
            outside = "" if self.output is None else f" outside the output folder {self.output}"
            raise unreadable(path, f"needed files that end in {list_endings(self.suffixes)}{outside}, got none; "
                                   "name a folder, a list file, a glob or a file that has some.")
        return files

    def _expand(self, path: Path) -> list[Path]:
        if os.path.isdir(path):
            return self._walk(path)
        if os.path.isfile(path):
            return self._read_list(path) if path.suffix.lower() in LIST_SUFFIXES else [path]
        if os.path.exists(path):
            check_regular(path)
        if "{" in str(path) and (names := list(braceexpand(str(path)))) != [str(path)]:
            return [file for name in names for file in self._expand(Path(name))]
        if glob.has_magic(str(path)):
            names = (name for name in sorted(glob.glob(str(path), recursive=True)) if not os.path.isdir(name))
            return [file for name in names if self._has_suffix(name) and _is_regular(file := Path(name))]
        raise unreadable(path, "needed a folder, a list file, a glob or a file, got a path that does not "
                               f"exist (working directory {Path.cwd()}); correct it.")

    def _has_suffix(self, name: str) -> bool:
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in self.suffixes and suffix not in self.beside:
            self.skipped[suffix] += 1
        return suffix in self.suffixes

    def _walk(self, folder: Path) -> list[Path]:
        files, seen, folders = [], set(), [str(folder)]
        while folders:
            root = folders.pop()
            real = os.path.realpath(root)
            # a link to a parent folder would never end
            if real in seen or os.path.abspath(root) == self.output:
                continue
            seen.add(real)
            below = []
            for entry in _visible_entries(root):
                if _is_folder(entry):
                    below.append(entry.path)
                elif self._has_suffix(entry.name) and _is_regular(entry):
                    files.append(Path(entry.path))
            folders += sorted(below, reverse=True)
        return sorted(files)

    def _read_list(self, path: Path) -> list[Path]:
        try:
            lines = path.read_bytes().decode("utf-8-sig").split("\n")  # names may have other line separators
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(path, f"needed a UTF-8 list of paths, got {error}; write one path per line.") from error
        names = (line.removeprefix("\ufeff").strip(" \t\r") for line in lines)  # lists may be joined
        files = (path.parent / name for name in names if name and not name.startswith("#"))
        return [file for file in files if _is_regular(file)]


def _visible_entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        logger.warning("skipped, a folder that cannot be listed: %s (%s).", error.filename, error.strerror)
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_regular(file: Path | os.DirEntry) -> bool:
    """False, with a warning, for pipes, sockets and devices; a missing file is reported when it is read."""
    try:
        if file.is_file():  # a DirEntry knows it without a system call
            return True
        mode = file.stat().st_mode
    except (OSError, ValueError):
        return True
    logger.warning("skipped, no regular file: %s (%s).", os.fspath(file), _kind(mode))
    return False


def find_files(path: str | os.PathLike, *, output: str | os.PathLike,
               suffixes: tuple[str, ...] = MEDIA_SUFFIXES) -> dict[Path, Path]:
    """The files of :func:`list_files`, each with the output path of its results, without a suffix.

    The subfolders of a folder are kept in ``output``, which need not exist. It may be inside the folder; its files are
    then skipped, and a DataError is raised if no others are left. The output name is the file's without its suffix,
    or with it if two files of a folder would get the same name.
    """
    found = list_files(path, suffixes=suffixes, output=output)
    files = list(dict.fromkeys(Path(os.path.abspath(file)) for file in found))
    root, output = Path(os.path.abspath(Path(os.path.expanduser(path)))), Path(output)
    if not os.path.isdir(root):
        root = Path(os.path.commonpath([file.parent for file in files]))
    # names that differ in case only are equal on some file systems; a set, since stem and name may be equal
    counts = Counter((file.parent, name.casefold()) for file in files for name in {file.stem, file.name})
    names = [file.stem if counts[file.parent, file.stem.casefold()] == 1 else file.name for file in files]
    return {file: output / file.parent.relative_to(root) / name for file, name in zip(files, names, strict=True)}

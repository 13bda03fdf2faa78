"""Output names of a tool that processes files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from toolkit.data.reading.files import list_files, unreadable
from toolkit.data.reading.images import IMAGE_SUFFIXES
from toolkit.data.reading.video_file import VIDEO_SUFFIXES

MEDIA_SUFFIXES = tuple(dict.fromkeys(IMAGE_SUFFIXES + VIDEO_SUFFIXES))


def find_files(path: str | os.PathLike, *, output: str | os.PathLike,
               suffixes: tuple[str, ...] = MEDIA_SUFFIXES) -> dict[Path, Path]:
    """Images and videos of ``path``, each with the output path of its results, without a suffix.

    The subfolders of a folder are kept in ``output``. ``output`` may be inside the folder; its files are then
    skipped. The output name is the file's without its suffix, or with it if two files of a folder would
    get the same name.

    ``path`` and ``suffixes`` are those of :func:`toolkit.data.reading.files.list_files`; ``output`` need not exist.
    If ``path`` has no such files, a DataError is raised.
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
    return {file: output / file.parent.relative_to(root) / name for file, name in _names(files).items()}


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """A name for each file, unique within its folder also if upper and lower case are not distinguished."""
    def folded(file: Path, name: str) -> tuple[Path, str]:
        return file.parent, name.casefold()
    # a set: a file without a suffix has the same stem and name
    counts = Counter(key for file in files for key in {folded(file, file.stem), folded(file, file.name)})
    return {file: file.stem if counts[folded(file, file.stem)] == 1 else file.name for file in files}

"""Which files a folder gives, and under which names their results go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from toolkit.data.datasets.images import IMAGE_SUFFIXES
from toolkit.data.reading.files import list_files, unreadable
from toolkit.data.reading.video_file import VIDEO_SUFFIXES

MEDIA_SUFFIXES = tuple(dict.fromkeys(IMAGE_SUFFIXES + VIDEO_SUFFIXES))


def find_files(path: str | os.PathLike, *, output: str | os.PathLike,
               suffixes: tuple[str, ...] = MEDIA_SUFFIXES) -> dict[Path, Path]:
    """Images and videos of ``path``, each with the folder and name under which its results go.

    A folder is searched recursively and mirrored in ``output``, which may lie in it: files there are
    left out. A name is the file's without its ending, or with it where another file of the folder
    would have the same.

    Args:
        path: A file, a folder, a glob, a pattern in braces or a list file, as
            :func:`toolkit.data.reading.files.list_files` has it.
        output: The folder to write to; it need not exist.
        suffixes: Endings that count in a folder or a glob.

    Returns:
        file -> ``output / folders / name``, to which an ending is to be added.

    Raises:
        DataError: If there is nothing at ``path``.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.png", "a.jpg", "b.mp4"):
        ...     (folder / name).touch()
        >>> [str(target) for target in find_files(folder, output="out").values()]
        ['out/a.jpg', 'out/a.png', 'out/b']
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
    """A name for each file that no other file of its folder has, whatever the case of letters."""
    def folded(file: Path, name: str) -> tuple[Path, str]:
        return file.parent, name.casefold()
    # Each once: a file without an ending has but one name.
    taken = Counter(key for file in files for key in {folded(file, file.stem), folded(file, file.name)})
    return {file: file.stem if taken[folded(file, file.stem)] == 1 else file.name for file in files}

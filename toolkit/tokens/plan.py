"""Which input goes into which shard: decided by the names alone, so the same for any number of processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolkit.contracts import DataError
from toolkit.data.reading.files import unreadable
from toolkit.data.reading.naming import MEDIA_SUFFIXES, find_files
from toolkit.data.reading.tar import media_in_tar

TAR_SUFFIX = ".tar"
MAX_SAMPLES, MIN_SHARDS = 1000, 64  # of a shard, and of a set that has so many files: shards are what processes share


@dataclass(frozen=True)
class Input:
    """A file, or what was found in a tar.

    Attributes:
        source: Where it is, below the input folder: folders, tar and file.
        name: Folders and name under which its results go, without an ending; no other input has it.
        content: The file, its bytes, or why there are none.
    """

    source: str
    name: str
    content: Path | bytes | DataError


def plan_shards(path: str | os.PathLike, *, output: str | os.PathLike,
                samples_per_shard: int | None = None) -> list[list[Input]]:
    """Inputs in order, cut into shards: so many files each, and each tar by itself.

    Args:
        path: A folder, a list file, a glob, a pattern in braces or a file; of images, videos and tars of them.
        output: Where results go; files there are no input.
        samples_per_shard: None: a 64th of the files, at most 1,000.

    Raises:
        DataError: If there is nothing at ``path``.
        ValueError: If ``samples_per_shard`` is below 1.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.png", "b.mp4", "c.png", "d.tar"):
        ...     (folder / name).touch()
        >>> [[item.source for item in shard] for shard in plan_shards(folder, output="out", samples_per_shard=2)]
        [['a.png', 'b.mp4'], ['c.png'], ['d.tar']]
    """
    if samples_per_shard is not None and samples_per_shard < 1:
        raise ValueError(f"samples_per_shard takes a number of at least 1, got {samples_per_shard}.")
    output = Path(output)
    inputs = []
    for file, target in find_files(path, output=output, suffixes=(*MEDIA_SUFFIXES, TAR_SUFFIX)).items():
        name = target.relative_to(output)
        inputs.append(Input((name.parent / file.name).as_posix(), name.as_posix(), file))
    count = samples_per_shard or min(MAX_SAMPLES, -(-len(inputs) // MIN_SHARDS))
    shards: list[list[Input]] = []
    for item in inputs:
        if is_tar(item) or not shards or is_tar(shards[-1][0]) or len(shards[-1]) == count:
            shards.append([])
        shards[-1].append(item)
    return shards


def is_tar(item: Input) -> bool:
    """Whether an input has inputs within.

    Example:
        >>> is_tar(Input("a.tar", "a", Path("a.tar")))
        True
    """
    return isinstance(item.content, Path) and item.content.suffix.lower() == TAR_SUFFIX


def samples_of(shard: Iterable[Input]) -> Iterator[Input]:
    """The images and videos of a shard, those in tars read into memory one after the other.

    What a tar cannot give is among them, as an input whose content is the reason.

    Example:
        >>> found, = samples_of([Input("no.tar", "no", Path("no.tar"))])
        >>> found.source, found.content
        ('no.tar', DataError('no.tar: needed a tar, got No such file or directory; write it again or leave it out.'))
    """
    for item in shard:
        if is_tar(item):
            yield from _in_tar(item)
        else:
            yield item


def _in_tar(tar: Input) -> Iterator[Input]:
    taken: set[str] = set()
    try:
        for member, content in media_in_tar(tar.content, suffixes=MEDIA_SUFFIXES, name=tar.source):
            source, path = f"{tar.source}/{member}", PurePosixPath(member)
            # the first of a name has it, one that comes later keeps its ending
            name = next((str(name) for name in (path.with_suffix(""), path) if str(name).casefold() not in taken), None)
            if path.is_absolute() or ".." in path.parts:
                yield Input(source, tar.name, unreadable(source, "needed a name within the tar; leave it out."))
            elif name is None:
                yield Input(source, tar.name, unreadable(source, "needed one file of a name, got another before it; "
                                                                 "leave one out."))
            else:
                taken.add(name.casefold())
                yield Input(source, f"{tar.source}/{name}", content)  # without .tar, a folder might have that name
    except DataError as error:
        yield Input(tar.source, tar.name, error)

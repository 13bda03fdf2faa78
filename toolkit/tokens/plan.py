"""Which input goes into which shard: the names alone decide, so all processes agree."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolkit.contracts import DataError
from toolkit.data.reading.files import MEDIA_SUFFIXES, find_files, unreadable
from toolkit.data.reading.tar import media_in_tar

TAR_SUFFIX = ".tar"
MAX_SAMPLES = 1000  # in a shard
MIN_SHARDS = 64  # of a set with at least as many files, so that many processes can share it


@dataclass(frozen=True)
class Input:
    """A file, or a member of a tar."""

    source: str  # folders, tar and file, below the input folder
    name: str  # folders and name of its results without a suffix; unique among the inputs
    content: Path | bytes | DataError  # the file's path, its bytes, or the error that reading it gave


def plan_shards(path: str | os.PathLike, *, output: str | os.PathLike,
                samples_per_shard: int | None = None) -> list[list[Input]]:
    """Inputs in order, divided into shards: ``samples_per_shard`` files each, and every tar alone.

    By default a shard has a 64th of the files, at most 1,000. Files in ``output`` are not inputs.
    """
    if samples_per_shard is not None and samples_per_shard < 1:
        raise ValueError(f"samples_per_shard needs a number of at least 1, got {samples_per_shard}.")
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
    """Whether an input is a tar of inputs."""
    return isinstance(item.content, Path) and item.content.suffix.lower() == TAR_SUFFIX


def samples_of(shards: Iterable[list[Input]]) -> Iterator[Input | None]:
    """The images and videos of shards, with None at the end of each shard; members of tars are read one by one.

    What cannot be read from a tar is an input whose content is the error.
    """
    for shard in shards:
        for item in shard:
            yield from _in_tar(item) if is_tar(item) else [item]
        yield None


def _in_tar(tar: Input) -> Iterator[Input]:
    used: set[str] = set()
    try:
        for member, content in media_in_tar(tar.content, suffixes=MEDIA_SUFFIXES, name=tar.source):
            source, path = f"{tar.source}/{member}", PurePosixPath(member)
            # The first member of a name drops its suffix, a later one keeps it.
            name = next((str(name) for name in (path.with_suffix(""), path) if str(name).casefold() not in used), None)
            if path.is_absolute() or ".." in path.parts:
                yield Input(source, tar.name, unreadable(source, "needed a name within the tar; rename it."))
            elif name is None:
                yield Input(source, tar.name, unreadable(source, "needed one file of a name, got two; rename one."))
            else:
                used.add(name.casefold())
                yield Input(source, f"{tar.source}/{name}", content)  # with .tar, which tells it from a folder
    except DataError as error:
        yield Input(tar.source, tar.name, error)

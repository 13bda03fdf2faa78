"""A token set, a folder of shards: its settings, which shards it has, and unreadable inputs."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.assets import sha256_of
from toolkit.io.atomic_write import atomic_open
from toolkit.saving import find_tokenizer

DESCRIPTION, UNREADABLE = "dataset.json", "unreadable.txt"


def tokenizer_hash(path: str | os.PathLike, *, revision: str | None = None, subfolder: str | None = None) -> str:
    """Identifies a tokenizer: ``cat config.json model.safetensors | sha256sum`` of what ``load_tokenizer`` reads.

    Arguments and errors are those of :func:`toolkit.load_tokenizer`; the ``source.directory`` of a loaded tokenizer
    is such a path too.

    Example:
        >>> import hashlib, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_bytes(b"a"), (folder / "model.safetensors").write_bytes(b"bc")
        >>> tokenizer_hash(folder) == hashlib.sha256(b"abc").hexdigest()
        True
    """
    directory = find_tokenizer(path, revision=revision, subfolder=subfolder).directory
    return sha256_of(directory / "config.json", directory / "model.safetensors")


def check_description(folder: Path, description: dict[str, Any]) -> None:
    """Write ``dataset.json``; a ValueError if it exists and was made with other settings.

    Two revisions of one commit, such as a branch and the commit itself, are the same setting. So are two versions of
    this package: the hash of a shipped tokenizer is compared too.
    """
    file, text = folder / DESCRIPTION, json.dumps(description, sort_keys=True, indent=2) + "\n"
    if not file.exists():  # another process may write the same at this moment
        with atomic_open(file) as new:
            new.write(text.encode())
    asked, stored = json.loads(text), json.loads(file.read_text())
    if different := [key for key in asked | stored if _setting(asked, key) != _setting(stored, key)]:
        was, now = (", ".join(f"{key}={values.get(key)}" for key in different) for values in (stored, asked))
        raise ValueError(f"the token set {folder} was made with {was}, got {now}; give the same or another output "
                         "folder.")


def _setting(description: dict[str, Any], key: str) -> Any:
    """A value of a description, without the revision of a tokenizer or the version of the package that has it."""
    value = description.get(key)
    is_source = key == "tokenizer_source" and isinstance(value, dict)
    return value | {"revision": None, "toolkit": None} if is_source else value


def num_shards(folder: Path) -> int:
    """How many shards a token set has when it is complete; a ValueError if ``dataset.json`` is damaged."""
    try:
        return operator.index(json.loads((folder / DESCRIPTION).read_text())["num_shards"])
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / DESCRIPTION}: needed a JSON object with the number num_shards, got another "
                         f"({type(error).__name__}: {error}); delete it.") from error


def shard_file(folder: Path, number: int) -> Path:
    """The path of a shard."""
    return folder / f"tokens-{number:06d}.tar"


def is_done(folder: Path, number: int) -> bool:
    """Whether a shard and the JSON of its counts exist; neither ever exists in part."""
    file = shard_file(folder, number)
    return file.exists() and file.with_suffix(".json").exists()


@dataclass
class Summary:
    """What a token set has.

    Attributes:
        num_shards: Of the complete set.
        num_done: Shards that exist.
        num_samples: In these shards.
        num_tokens: Integers in these shards.
        unreadable: (source, reason) of inputs that could not be read.

    Example:
        >>> Summary(num_shards=2, num_done=1).complete
        False
    """

    num_shards: int
    num_done: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    unreadable: Sequence[tuple[str, str]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all shards exist."""
        return self.num_done == self.num_shards


def summarize(folder: str | os.PathLike) -> Summary:
    """Count what a token set has; once it is complete, ``unreadable.txt`` lists the unreadable inputs.

    Raises:
        FileNotFoundError: If the folder is not a token set.

    Example:
        >>> summarize("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no/such/folder/dataset.json'
    """
    folder = Path(folder)
    summary = Summary(num_shards(folder))
    for number in range(summary.num_shards):
        if is_done(folder, number):
            shard = json.loads(shard_file(folder, number).with_suffix(".json").read_text())
            summary.num_done += 1
            summary.num_samples += shard["num_samples"]
            summary.num_tokens += shard["num_tokens"]
            summary.unreadable += [(item["source"], item["reason"]) for item in shard["unreadable"]]
    if summary.complete and summary.unreadable and not (folder / UNREADABLE).exists():
        with atomic_open(folder / UNREADABLE) as file:
            file.writelines(f"{source}\t{' '.join(reason.split())}\n".encode(errors="surrogateescape")
                            for source, reason in summary.unreadable)
    return summary

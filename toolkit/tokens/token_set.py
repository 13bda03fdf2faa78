"""A folder of tokens: what it was made with, which shards it has, and what could not be read."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.data.reading.tar import written_once
from toolkit.saving import tokenizer_directory
from toolkit.tokenizer import Tokenizer

DESCRIPTION, UNREADABLE = "dataset.json", "unreadable.txt"
DIGIT_ORDER = "most significant first"


def tokenizer_hash(path: str | os.PathLike) -> str:
    """What tells tokens of one tokenizer from another's: ``cat config.json model.safetensors | sha256sum``.

    Args:
        path: As :func:`toolkit.load_tokenizer` has it.

    Raises:
        FileNotFoundError: If there is no such tokenizer.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_bytes(b"a"), (folder / "model.safetensors").write_bytes(b"bc")
        >>> tokenizer_hash(folder) == hashlib.sha256(b"abc").hexdigest()
        True
    """
    digest, directory = hashlib.sha256(), tokenizer_directory(path)
    for name in ("config.json", "model.safetensors"):
        with (directory / name).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def describe_tokens(tokenizer: Tokenizer, hash_of_it: str) -> dict[str, Any]:
    """What a number in a token set means.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video_fsq.py").tokenizer)
        >>> described = describe_tokens(tokenizer, "0" * 64)
        >>> described["digits"], described["digit_order"]
        ([8, 8, 8, 8, 8, 8], 'most significant first')
    """
    return {"tokenizer": hash_of_it, "quantizer": tokenizer.quantizer.config, "codebook_size": tokenizer.codebook_size,
            "num_codebooks": tokenizer.num_codebooks, "digits": list(tokenizer.digits), "digit_order": DIGIT_ORDER}


def agree(folder: Path, description: dict[str, Any]) -> None:
    """Write ``dataset.json``, or see that it is the same.

    Raises:
        ValueError: If the folder has tokens that were made otherwise.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> agree(folder, {"frames": 17})
        >>> agree(folder, {"frames": 33})
        Traceback (most recent call last):
        ValueError: ... was made with frames=17, got frames=33; give the same or another output folder.
    """
    file, wanted = folder / DESCRIPTION, json.dumps(description, sort_keys=True, indent=2) + "\n"
    if not file.exists():  # others may do the same just now, and write the same
        with written_once(file) as new:
            new.write(wanted.encode())
    wanted, found = json.loads(wanted), json.loads(file.read_text())
    odd = [key for key in wanted | found if wanted.get(key) != found.get(key)]
    if odd:
        was, now = (", ".join(f"{key}={values.get(key)}" for key in odd) for values in (found, wanted))
        raise ValueError(f"the token set {folder} was made with {was}, got {now}; give the same or another output "
                         "folder.")


def num_shards(folder: Path) -> int:
    """How many shards a token set will have.

    Raises:
        FileNotFoundError: If the folder has no ``dataset.json``.
        ValueError: If that is damaged.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> agree(folder, {"num_shards": 3})
        >>> num_shards(folder)
        3
    """
    try:
        return operator.index(json.loads((folder / DESCRIPTION).read_text())["num_shards"])
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / DESCRIPTION}: needed a JSON object with the number num_shards, got another "
                         f"({type(error).__name__}: {error}); delete it.") from error


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard is.

    Example:
        >>> shard_file(Path("tokens"), 12).name
        'tokens-000012.tar'
    """
    return folder / f"tokens-{number:06d}.tar"


def is_done(folder: Path, number: int) -> bool:
    """Whether a shard and what is known of it are there; they only ever are as a whole.

    Example:
        >>> is_done(Path("no/such/folder"), 0)
        False
    """
    file = shard_file(folder, number)
    return file.exists() and file.with_suffix(".json").exists()


@dataclass
class Summary:
    """What a folder of tokens has.

    Attributes:
        num_shards: That there will be.
        num_done: That are there.
        num_samples: Of those.
        num_tokens: Integers in them.
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
        """Whether all shards are there."""
        return self.num_done == self.num_shards


def summarize(folder: str | os.PathLike) -> Summary:
    """Count what is in a folder of tokens; once it is complete, ``unreadable.txt`` lists what could not be read.

    Raises:
        FileNotFoundError: If it is no such folder.

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
        with written_once(folder / UNREADABLE) as file:
            file.writelines(f"{source}\t{' '.join(reason.split())}\n".encode(errors="surrogateescape")
                            for source, reason in summary.unreadable)
    return summary

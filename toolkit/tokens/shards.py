"""Tars of tokens (webdataset's layout): a sample is two members, ``KEY.indices.npy`` and ``KEY.json``.

Tars are read with Python's own ``tarfile``. Nothing is unpacked or executed, and arrays are mapped, so that a long
video costs no memory.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import tarfile
import tokenize
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from toolkit.data.reading.tar import open_tar, tar_members


def sample_key(name: str) -> str:
    """A name as a key of webdataset, which has no dots; ``urllib.parse.unquote`` undoes it."""
    key = name.replace("%", "%25").replace(".", "%2E")
    return "%5F" + key[1:] if key.startswith("__") else key  # webdataset skips __names__


def write_npy(file: BinaryIO, chunks: Iterable[np.ndarray]) -> tuple[int, ...]:
    """Write chunks (n, ...), joined along n, as one ``.npy`` to an empty seekable file; returns the whole shape.

    At least one chunk; no chunk is kept in memory.
    """
    def header(chunk: np.ndarray, length: int) -> dict[str, Any]:
        return {"descr": np.lib.format.dtype_to_descr(chunk.dtype), "fortran_order": False,
                "shape": (length, *chunk.shape[1:])}

    length, chunk = 0, None
    for chunk in chunks:
        if length == 0:  # numpy's header has room for the first axis to grow
            np.lib.format.write_array_header_1_0(file, header(chunk, 0))
        file.write(np.ascontiguousarray(chunk).data)
        length += len(chunk)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, header(chunk, length))
    return length, *chunk.shape[1:]


def write_sample(shard: tarfile.TarFile, key: str, indices: BinaryIO, meta: dict[str, Any]) -> None:
    """Add a sample, its ``.npy`` as a file and its metadata; the same samples give the same bytes."""
    text = io.BytesIO(json.dumps(meta, sort_keys=True).encode())
    for name, file in ((f"{key}.indices.npy", indices), (f"{key}.json", text)):
        member = tarfile.TarInfo(name)  # without user and time
        file.seek(0, os.SEEK_END)
        member.size = file.tell()
        file.seek(0)
        shard.addfile(member, file)


def read_tokens(path: str | os.PathLike) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """The samples of a tar of tokens, in order.

    Args:
        path: The tar. ``webdataset.WebDataset`` reads it as well, into memory.

    Yields:
        (key, indices (*positions, G), metadata). The indices are read from the file when they are used, and
        read-only: ``torch.from_numpy(indices.copy())`` makes a tensor.

    Raises:
        DataError: If it is no tar of tokens; if it is cut off or damaged, after the samples before that place.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "tokens.tar")
        >>> indices = io.BytesIO()
        >>> _ = write_npy(indices, [np.arange(4).reshape(1, 2, 2, 1)])
        >>> with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as shard:
        ...     write_sample(shard, "clips/0", indices, {"size": [1, 16, 16]})
        >>> for key, indices, meta in read_tokens(path):
        ...     print(key, indices.ravel(), meta["size"])
        clips/0 [0 1 2 3] [1, 16, 16]
    """
    with open_tar(path, needed="a tar of tokens", advice="extract them again") as tar:
        mapped = mmap.mmap(tar.fileobj.fileno(), 0, access=mmap.ACCESS_READ)
        sample: dict[str, Any] = {}
        for member in tar_members(tar):
            kind = member.name.rpartition("/")[2].partition(".")[2]
            if not member.isreg() or kind not in ("indices.npy", "json"):
                continue
            key = member.name.removesuffix(f".{kind}")
            end = member.offset_data + member.size
            content = _mapped_npy(mapped, member) if kind != "json" else json.loads(mapped[member.offset_data:end])
            sample = {kind: content} if sample.get("key") != key else sample | {kind: content}
            sample["key"] = key
            if len(sample) == 3:
                if not isinstance(sample["json"], dict):
                    raise ValueError(f"no JSON object for {key}")
                yield key, sample["indices.npy"], sample["json"]


def _mapped_npy(mapped: mmap.mmap, member: tarfile.TarInfo) -> np.ndarray:
    """The array of a member, not yet read; objects are refused, since they would be unpickled."""
    head = io.BytesIO(mapped[member.offset_data:member.offset_data + min(member.size, 2**14)])
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError(f"another version of .npy in {member.name}")
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    except tokenize.TokenError as error:
        raise ValueError(f"no header of .npy in {member.name}: {error}") from error
    start, size = member.offset_data + head.tell(), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.kind not in "iu" or fortran or head.tell() + size != member.size or start + size > len(mapped):
        raise ValueError(f"{dtype} of shape {shape} in {member.size} bytes where integers are needed: {member.name}")
    return np.ndarray(shape, dtype, buffer=mapped, offset=start)

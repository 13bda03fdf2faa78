"""Hostile files, and checks that a reader refuses them."""

from __future__ import annotations

import functools
import io
import operator
import os
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.test_shards import write_tar
from tools.commands import run_here

from toolkit.assets import AssetError
from toolkit.contracts import DataError
from toolkit.registry import UnknownComponentError

CLEAR = (ValueError, TypeError, UnknownComponentError, AssetError, DataError)  # what tools print in one line


class Calls:
    """Calls a function when it is unpickled; ``state`` and ``items`` are set on what that returns."""

    def __init__(self, function: Callable, *arguments: Any, state: Any = None, items: Any = ()):
        self.reduced = function, arguments, state, None, iter(items) if items else None

    def __reduce__(self):
        return self.reduced


def legacy_bytes(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


PAYLOADS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda marker: Calls(os.system, f"mkdir {marker}"),
    "eval": lambda marker: Calls(eval, f"__import__('os').mkdir({marker!r})"),
    "exec": lambda marker: Calls(exec, f"import os; os.mkdir({marker!r})"),
    "subprocess": lambda marker: Calls(subprocess.check_call, ["mkdir", marker]),
    "getattr": lambda marker: Calls(operator.call, Calls(getattr, Calls(__import__, "os"), "mkdir"), marker),
    "partial": lambda marker: Calls(operator.call, functools.partial(os.mkdir, marker)),
    "state of an admitted class": lambda marker: Calls(OrderedDict, state={"hook": Calls(os.mkdir, marker)}),
    "storage within": lambda marker: Calls(torch.storage._load_from_bytes, legacy_bytes(Calls(os.mkdir, marker))),
    "torch's rebuilding": lambda marker: Calls(torch._tensor._rebuild_from_type_v2, os.mkdir, torch.Tensor, (marker,),
                                               None),
    "array of objects": lambda marker: np.array([Calls(os.mkdir, marker)], dtype=object),
    "deep within": lambda marker: {"optimizer": [{"state": {0: (torch.ones(1), Calls(os.mkdir, marker))}}]},
}


def zipped(content: Any, path: Path) -> None:
    torch.save({"model": {"encoder.weight": torch.ones(1)}, "extra": content}, path)


def legacy(content: Any, path: Path) -> None:
    torch.save({"model": {}, "extra": content}, path, _use_new_zipfile_serialization=False)


def plain(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": content}))


def tar_of_torch(content: Any, path: Path) -> None:
    """Of torch before 0.1.10, every member of which is a pickle."""
    write_tar(path, dict.fromkeys(("storages", "tensors", "pickle"), pickle.dumps(content)))


FORMATS = [zipped, legacy, plain, tar_of_torch]


def refused(reader: Callable, *arguments: Any, named: object = "", **options: Any) -> str:
    """The error message of a reader that refuses a file; it is one that tools print, and names the file."""
    with pytest.raises(CLEAR) as caught:
        reader(*arguments, **options)
    message = str(caught.value)
    assert str(named) in message and len(message) < 4000
    return message


def refused_by_tool(tool: str, *arguments: object, named: object) -> str:
    message = run_here(tool, *arguments)
    assert isinstance(message, str) and message.startswith("error: ") and str(named) in message, message
    return message

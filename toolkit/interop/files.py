"""Reading a checkpoint file without executing anything from it, and sorting its content."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]

_MAIN = ("state_dict", "model", "module", "tokenizer")  # sections in which trainers keep the weights
_EMA = ("ema", "model_ema", "ema_state_dict")
# Perceptual networks, loss state, and LeCAM's averages.
_SKIPPED = re.compile(r"(loss|perceptual_model|perceptual_loss)[./]|(.*[./])?lecam_ema[./]")
_EMA_COUNTERS = ("model_ema.decay", "model_ema.num_updates")
_DISCRIMINATOR_PREFIX = re.compile(r"(?:loss\.)?discriminator[./](?!lecam_ema)")
_STATE = re.compile(r"optimizer|(lr_)?scheduler|callbacks|hyper_parameters|loops|scaler|rng|random")
_MAX_GROWTH = 4  # bytes of tensors per byte of the file: compression, and weights of several names


class CheckpointError(ValueError):
    """A checkpoint that cannot be converted; the message names the tensors.

    Example:
        >>> issubclass(CheckpointError, ValueError)
        True
    """


@dataclass
class Contents:
    """A checkpoint's tensors by component, by their names without the prefixes of wrappers."""

    tokenizer: Tensors
    discriminator: Tensors = field(default_factory=dict)
    discriminator_prefix: str = ""  # of its names in the file
    ema: bool = False  # whether the tokenizer's weights are the averaged ones
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> names that are not used


def read_file(path: str | Path) -> Mapping[str, Any]:
    """The content of a checkpoint file; nothing in it is executed.

    Of torch's files only tensors, containers and plain values are read, and an ``argparse.Namespace`` of them.
    A file that is damaged, would run code or unpacks to far more than its size raises a CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give a .safetensors, .npz, .bin, .pt, .pth or .ckpt file.")
    try:
        _check_unpacked(path)
        if path.suffix == ".safetensors":
            content = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        elif path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise CheckpointError(f"{path}: a checkpoint ends in .safetensors, .npz, .bin, .pt, .pth or .ckpt, "
                                  f"got {path.suffix!r}.")
    except CheckpointError:
        raise
    except (pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError,
            ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
            TypeError, ValueError) as error:
        reason = _reason(error)
        if isinstance(error, pickle.UnpicklingError) and not re.match("Unsupported operand|String is too long", reason):
            raise CheckpointError(f"{path} is refused: it holds more than tensors and plain values, and reading it "
                                  f"could run code from it ({reason}). Save its state dict alone.") from error
        raise CheckpointError(f"{path} is damaged, or not a checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors.")
    # Plain dicts and plain tensors: a pickle may give an OrderedDict an attribute `items`, or a tensor one `float`.
    plain = {key: {name: _plain(item) for name, item in dict.items(value)} if isinstance(value, dict) else _plain(value)
             for key, value in dict.items(content)}
    _check_tensors(path, plain)
    return plain


def sort_contents(checkpoint: Mapping[str, Any], *, ema: bool = True) -> Contents:
    """Sort the content of a checkpoint into tokenizer, discriminator and the rest.

    Known wrappings: a bare dict; Lightning's ``state_dict`` with an averaged copy under ``model_ema.`` whose
    names have no dots; ``model`` and ``ema`` side by side; ``tokenizer.``, ``discriminator.`` and
    ``perceptual_model.`` in one dict; ``module.`` and ``_orig_mod.`` of torch's wrappers; names that start with
    ``encoder/``, ``decoder/`` and ``discriminator/``.
    """
    contents = Contents(tokenizer={})
    sections = _sections(checkpoint, contents)
    raw = next((sections.pop(name) for name in (*_MAIN, "") if name in sections), None)
    average = next((sections.pop(name) for name in _EMA if name in sections), None)
    if raw is None and average is None:
        raise CheckpointError(f"no weights found: the file has {', '.join(map(repr, checkpoint)) or 'nothing'}, and "
                              f"none of {', '.join((*_MAIN, *_EMA))} holds tensors.")
    if "discriminator" in sections:
        contents.discriminator = _unwrapped(sections.pop("discriminator"))
        contents.discriminator_prefix = "discriminator."
    if sections:
        raise CheckpointError("left over: " + shortened([f"{section}.{name}".lstrip(".") for section, tensors
                                                       in sections.items() for name in tensors]) + ".")
    raw, average = _unwrapped(raw or {}), _unwrapped(average or {})
    if dotless := [name for name in raw if name.startswith("model_ema.")]:
        average = {name: raw.pop(name) for name in dotless}
        _skip(contents, "EMA counters", [name for name in _EMA_COUNTERS if average.pop(name, None) is not None])
    if average and not raw and not ema:
        raise CheckpointError("the file has averaged weights alone, no raw ones; convert without --no-ema (ema=False).")
    tokenizer = _tokenizer_of(raw, contents)
    if average and ema:
        if dotless:
            dotted = {_dotless_name(name): name for name in raw}
            if unknown := [name for name in average if name not in dotted]:
                raise CheckpointError(f"left over, copies of no tensor in the file: {shortened(unknown)}; convert the "
                                      "raw weights instead (--no-ema).")
            average = {dotted[name]: tensor for name, tensor in average.items()}
        averaged = _tokenizer_of(average, contents, with_discriminator=not raw)
        if raw:
            _check_copy(averaged, tokenizer, dotless=bool(dotless))
            _skip(contents, "replaced by EMA", list(tokenizer))
        contents.tokenizer, contents.ema = averaged, True
    else:
        _skip(contents, "EMA", list(average))
        contents.tokenizer = tokenizer
    return contents


def _plain(value: Any) -> Any:
    return Tensor.detach(value) if isinstance(value, Tensor) else value


def _check_unpacked(path: Path) -> None:
    """Refuse a zip (torch's and numpy's files are zips) that unpacks to far more than its size."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        _check_size(path, "unpacks to", sum(member.file_size for member in archive.infolist()))


def _check_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse tensors whose numbers are not in the file: networks are built in the tensors' sizes."""
    named = list(content.items())
    named += [(f"{key}.{name}", item) for key, value in content.items() if isinstance(value, dict)
              for name, item in value.items()]
    tensors = [(name, item) for name, item in named if isinstance(item, Tensor)]  # a name may occur twice
    special = [name for name, tensor in tensors if tensor.layout != torch.strided or tensor.device.type != "cpu"
           or tensor.is_quantized or tensor.is_nested]
    if special:
        raise CheckpointError(f"{path} is refused: weights are dense tensors of plain numbers, others are "
                              f"{shortened(list(map(str, special)))}; save them as dense tensors.")
    # Strides may be zero or overlap, and tensors may share a storage: their size after a copy counts.
    _check_size(path, "has tensors of", sum(tensor.numel() * tensor.element_size() for _, tensor in tensors))


def _check_size(path: Path, what: str, num_bytes: int) -> None:
    if num_bytes > _MAX_GROWTH * (size := path.stat().st_size):
        raise CheckpointError(f"{path} is refused: it {what} {num_bytes:,} bytes, but the file has {size:,}; "
                              "save it again, uncompressed and with each tensor as .clone().")


def _reason(error: Exception) -> str:
    """The first sentence of an error, without the advice that torch and numpy append."""
    if isinstance(error.__context__, pickle.UnpicklingError):  # torch raises another, which starts with advice
        error = error.__context__
    return re.split(r"\.? *\n|\. |\.$", str(error).strip())[0][:300] or type(error).__name__


def _sections(checkpoint: Mapping[str, Any], contents: Contents) -> dict[str, Tensors]:
    """Section -> its tensors; "" for the tensors at the top of the file. Everything else is skipped."""
    sections: dict[str, Tensors] = {}
    for key, value in checkpoint.items():
        if isinstance(value, Tensor):
            sections.setdefault("", {})[str(key)] = value
        elif (isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())
              and not _STATE.match(str(key))):
            sections[str(key)] = {str(name): item for name, item in value.items() if isinstance(item, Tensor)}
            _skip(contents, "no tensors", [f"{key}.{name}" for name, item in value.items()
                                           if not isinstance(item, Tensor)])
        else:
            _skip(contents, "optimizers and other state", [str(key)])
    if len(sections) > 1 and (numbers := [name for name, tensor in sections.get("", {}).items() if not tensor.ndim]):
        _skip(contents, "optimizers and other state", numbers)  # such as a step beside state_dict
        sections[""] = {name: tensor for name, tensor in sections[""].items() if tensor.ndim}
    return {name: tensors for name, tensors in sections.items() if tensors}


def _unwrapped(tensors: Tensors) -> Tensors:
    """Remove the prefixes that torch's wrappers put before every name."""
    for prefix in ("module.", "_orig_mod.", "module."):
        without = [name for name in tensors if not name.startswith(prefix)]
        if without and len(without) * 2 < len(tensors):
            raise CheckpointError(f"left over: {shortened(without)}; all other names start with {prefix}")
        if not without:
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _tokenizer_of(tensors: Tensors, contents: Contents, *, with_discriminator: bool = True) -> Tensors:
    """The tokenizer's tensors of a section; the discriminator's and the skipped ones go to ``contents``."""
    prefixes = Counter(match[0] for name in tensors if (match := _DISCRIMINATOR_PREFIX.match(name)))
    discriminator_prefix = max(prefixes, key=prefixes.get, default="")
    prefix = "tokenizer." if any(name.startswith("tokenizer.") for name in tensors) else ""
    tokenizer, discriminator, stray = {}, {}, []
    for name, tensor in tensors.items():
        match = _DISCRIMINATOR_PREFIX.match(name)
        if match and match[0] == discriminator_prefix:
            discriminator[name.removeprefix(discriminator_prefix)] = tensor
        elif not match and _SKIPPED.match(name):
            _skip(contents, "loss and perceptual networks", [name])
        elif not match and name.startswith(prefix):
            tokenizer[name.removeprefix(prefix)] = tensor
        else:
            stray.append(name)
    if discriminator and not with_discriminator:
        _skip(contents, "EMA of the discriminator", [f"{discriminator_prefix}{name}" for name in discriminator])
    elif discriminator and contents.discriminator:
        stray += [f"{discriminator_prefix}{name}" for name in discriminator]
    elif discriminator:
        contents.discriminator, contents.discriminator_prefix = discriminator, discriminator_prefix
    if stray:
        raise CheckpointError(f"left over, without the prefix of the others: {shortened(stray)}.")
    return _unwrapped(tokenizer)


def _dotless_name(name: str) -> str:
    """The name of Lightning's averaged copy of a tensor."""
    return f"model_ema.{name.replace('.', '')}"


def _check_copy(average: Tensors, raw: Tensors, *, dotless: bool) -> None:
    def copy(name: str) -> str:
        return _dotless_name(name) if dotless else f"ema.{name}"

    problems = [f"{name} has no averaged copy {copy(name)}" for name in raw if name not in average]
    problems += [f"{copy(name)} is an averaged copy, but {name} is missing" for name in average if name not in raw]
    problems += [f"{copy(name)} is {tuple(average[name].shape)}, {name} {tuple(raw[name].shape)}"
                 for name in raw if name in average and average[name].shape != raw[name].shape]
    if problems:
        raise CheckpointError(f"averaged and raw weights do not match: {shortened(problems)}; convert the raw weights "
                              "instead (--no-ema).")


def _skip(contents: Contents, reason: str, names: list[str]) -> None:
    if names:
        known = contents.skipped.setdefault(reason, [])
        known += [name for name in names if name not in known]


def shortened(names: list[str], limit: int = 50) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

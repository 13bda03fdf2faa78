"""Reading a checkpoint file without executing anything from it, and sorting what is in it."""

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

_MAIN = ("state_dict", "model", "module", "tokenizer")  # where trainers keep the weights
_EMA = ("ema", "model_ema", "ema_state_dict")
_DISCRIMINATOR = ("discriminator",)
# Names that are no tokenizer's: perceptual networks and loss state; counters and averages of trainers.
_SKIPPED = re.compile(r"(loss|perceptual_model|perceptual_loss)[./]|(.*[./])?lecam_ema[./]")
_EMA_COUNTERS = ("decay", "num_updates")
_RIVAL = re.compile(r"(?:loss\.)?discriminator[./](?!lecam_ema)")
_STATE = re.compile(r"optimizer|(lr_)?scheduler|callbacks|hyper_parameters|loops|scaler|rng|random")
_LARGER = 4  # times its file is what a checkpoint may become, by compression and as weights of several names


class CheckpointError(ValueError):
    """A checkpoint that cannot be converted; the message names the tensors.

    Example:
        >>> issubclass(CheckpointError, ValueError)
        True
    """


@dataclass
class Contents:
    """A checkpoint's tensors by what they belong to, under their own names without wrappers' prefixes.

    Attributes:
        tokenizer: The encoder's, quantizer's and decoder's.
        discriminator: Empty where the file has none.
        prefix, discriminator_prefix: What their names begin with in the file.
        ema: Whether the tokenizer's are the averaged ones.
        skipped: Why -> names of what was left out.

    Example:
        >>> Contents(tokenizer={}).skipped
        {}
    """

    tokenizer: Tensors
    discriminator: Tensors = field(default_factory=dict)
    prefix: str = ""
    discriminator_prefix: str = ""
    ema: bool = False
    skipped: dict[str, list[str]] = field(default_factory=dict)


def read_file(path: str | Path) -> Mapping[str, Any]:
    """What a checkpoint file holds; nothing in it is executed.

    Args:
        path: ``.safetensors``, ``.npz``, or torch's ``.bin``, ``.pt``, ``.pth`` or ``.ckpt``. Of torch's, only
            tensors, containers and plain values are admitted, and an ``argparse.Namespace`` of them.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, of another kind, has anything in it that would have to run, or becomes
            far larger than it is.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tiny.pt"
        >>> torch.save({"model": {"weight": torch.ones(2)}, "args": argparse.Namespace(lr=1e-4)}, path)
        >>> sorted(read_file(path))
        ['args', 'model']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give a .safetensors, .npz, .bin, .pt, .pth or .ckpt file.")
    try:
        _check_unpacked(path)
        if path.suffix == ".safetensors":
            found = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        elif path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
            with torch.serialization.safe_globals([argparse.Namespace]):
                found = torch.load(path, map_location="cpu", weights_only=True)
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
        raise CheckpointError(f"{path} is damaged, or no checkpoint: {reason}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}; a checkpoint is a dict of tensors.")
    # Plain dicts of the same: a pickle may give an OrderedDict an attribute `items`, or a tensor one `float`.
    bare = {key: {name: _bare(item) for name, item in dict.items(value)} if isinstance(value, dict) else _bare(value)
            for key, value in dict.items(found)}
    _check_tensors(path, bare)
    return bare


def sort_contents(found: Mapping[str, Any], *, ema: bool = True) -> Contents:
    """Sort a checkpoint into tokenizer, discriminator and the rest.

    Known wrappings: a bare dict; Lightning's ``state_dict`` with an averaged copy under ``model_ema.`` whose
    names have lost their dots; ``model`` and ``ema`` side by side; ``tokenizer.``, ``discriminator.`` and
    ``perceptual_model.`` in one dict; ``module.`` and ``_orig_mod.`` of torch's wrappers; names that start with
    ``encoder/``, ``decoder/`` and ``discriminator/``.

    Args:
        found: What :func:`read_file` returned.
        ema: Take the averaged weights where there are any.

    Raises:
        CheckpointError: If there is no section of weights, or the averaged copy does not match its original.

    Example:
        >>> one = torch.ones(1)
        >>> contents = sort_contents({"state_dict": {"a.b": one, "model_ema.ab": 2 * one, "loss.x": one}})
        >>> contents.tokenizer, contents.ema, contents.skipped
        ({'a.b': tensor([2.])}, True, {'loss and perceptual networks': ['loss.x'], 'replaced by EMA': ['a.b']})
    """
    contents = Contents(tokenizer={})
    sections = _sections(found, contents)
    raw = next((sections.pop(name) for name in (*_MAIN, "") if name in sections), None)
    average = next((sections.pop(name) for name in _EMA if name in sections), None)
    if raw is None and average is None:
        raise CheckpointError(f"no weights found: the file has {', '.join(map(repr, found)) or 'nothing'}, and none of "
                              f"{', '.join((*_MAIN, *_EMA))} holds tensors.")
    for name in [name for name in _DISCRIMINATOR if name in sections]:
        contents.discriminator, contents.discriminator_prefix = _unwrapped(sections.pop(name)), f"{name}."
    if sections:
        raise CheckpointError("left over: " + shortened([f"{section}.{name}".lstrip(".") for section, tensors
                                                       in sections.items() for name in tensors]) + ".")
    raw, average = _unwrapped(raw or {}), _unwrapped(average or {})
    dotless = {name.removeprefix("model_ema."): tensor for name, tensor in raw.items()
               if name.startswith("model_ema.")}
    raw = {name: tensor for name, tensor in raw.items() if not name.startswith("model_ema.")}
    if dotless:
        _skip(contents, "EMA counters", [f"model_ema.{name}" for name in dotless if name in _EMA_COUNTERS])
        average = {name: tensor for name, tensor in dotless.items() if name not in _EMA_COUNTERS}
        average = _with_dots(average, raw) if ema else {f"model_ema.{name}": average[name] for name in average}
    if average and not raw and not ema:
        raise CheckpointError("the file has averaged weights alone, no raw ones; leave out --no-ema (ema=False).")
    tokenizer = _tokenizers(raw, contents)
    if average and ema:
        averaged = _tokenizers(average, contents, with_rival=not raw)
        if raw:
            _check_copy(averaged, tokenizer, dotless=bool(dotless))
            _skip(contents, "replaced by EMA", list(tokenizer))
        contents.tokenizer, contents.ema = averaged, True
    else:
        _skip(contents, "EMA", list(average))
        contents.tokenizer = tokenizer
    return contents


def _bare(value: Any) -> Any:
    return Tensor.detach(value) if isinstance(value, Tensor) else value


def _check_unpacked(path: Path) -> None:
    """Refuse a zip, which torch's and numpy's files are, that unpacks to far more than it is."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        _check_size(path, "unpacks to", sum(member.file_size for member in archive.infolist()))


def _check_tensors(path: Path, found: Mapping[str, Any]) -> None:
    """Refuse tensors that are not the file's own numbers: networks are made in the sizes that they have."""
    named = list(found.items())
    named += [(f"{key}.{name}", item) for key, value in found.items() if isinstance(value, dict)
              for name, item in value.items()]
    tensors = [(name, item) for name, item in named if isinstance(item, Tensor)]  # of a name there may be two
    odd = [name for name, tensor in tensors if tensor.layout != torch.strided or tensor.device.type != "cpu"
           or tensor.is_quantized or tensor.is_nested]
    if odd:
        raise CheckpointError(f"{path} is refused: weights are dense tensors of plain numbers, others are "
                              f"{shortened(list(map(str, odd)))}; save them as such.")
    # Strides may be zero or overlap, and tensors share a storage: what counts is what they are when they are copied.
    _check_size(path, "has tensors of", sum(tensor.numel() * tensor.element_size() for _, tensor in tensors))


def _check_size(path: Path, what: str, num_bytes: int) -> None:
    if num_bytes > _LARGER * (size := path.stat().st_size):
        raise CheckpointError(f"{path} is refused: it {what} {num_bytes:,} bytes, and is no larger than {size:,}; "
                              "save it anew, uncompressed and with each tensor as .clone().")


def _reason(error: Exception) -> str:
    """The first sentence of an error, without the advice that torch's and numpy's have after it."""
    if isinstance(error.__context__, pickle.UnpicklingError):  # torch raises another, which begins with advice
        error = error.__context__
    return re.split(r"\.? *\n|\. |\.$", str(error).strip())[0][:300] or type(error).__name__


def _sections(found: Mapping[str, Any], contents: Contents) -> dict[str, Tensors]:
    """Name -> tensors directly in it, "" for those of the file itself; what else there is, is skipped."""
    sections: dict[str, Tensors] = {}
    for key, value in found.items():
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
    """Without the prefixes that torch's wrappers put before every name."""
    for prefix in ("module.", "_orig_mod.", "module."):
        without = [name for name in tensors if not name.startswith(prefix)]
        if without and len(without) * 2 < len(tensors):
            raise CheckpointError(f"left over: {shortened(without)}; all other names start with {prefix}")
        if not without:
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _tokenizers(tensors: Tensors, contents: Contents, *, with_rival: bool = True) -> Tensors:
    """The tokenizer's tensors of a section; the discriminator's and the rest go where they belong."""
    rivals = Counter(match[0] for name in tensors if (match := _RIVAL.match(name)))
    rival = rivals.most_common(1)[0][0] if rivals else None
    prefix = "tokenizer." if any(name.startswith("tokenizer.") for name in tensors) else ""
    own, discriminator, stray = {}, {}, []
    for name, tensor in tensors.items():
        if match := _RIVAL.match(name):
            if match[0] == rival:
                discriminator[name.removeprefix(rival)] = tensor
            else:
                stray.append(name)
        elif _SKIPPED.match(name):
            _skip(contents, "loss and perceptual networks", [name])
        elif name.startswith(prefix):
            own[name.removeprefix(prefix)] = tensor
        else:
            stray.append(name)
    if discriminator and not with_rival:
        _skip(contents, "EMA of the discriminator", [f"{rival}{name}" for name in discriminator])
    elif discriminator and contents.discriminator:
        stray += [f"{rival}{name}" for name in discriminator]
    elif discriminator:
        contents.discriminator, contents.discriminator_prefix = discriminator, rival
    if stray:
        raise CheckpointError(f"left over, under another prefix than their likes: {shortened(stray)}.")
    contents.prefix = prefix
    return _unwrapped(own)


def _with_dots(dotless: Tensors, raw: Tensors) -> Tensors:
    """An averaged copy under the names of the weights it is of."""
    dotted = {name.replace(".", ""): name for name in raw}
    unknown = [f"model_ema.{name}" for name in dotless if name not in dotted]
    if unknown:
        raise CheckpointError(f"left over, copies of no tensor in the file: {shortened(unknown)}; convert the raw "
                              "weights instead (--no-ema).")
    return {dotted[name]: tensor for name, tensor in dotless.items()}


def _check_copy(average: Tensors, raw: Tensors, *, dotless: bool) -> None:
    def copy(name: str) -> str:
        return f"model_ema.{name.replace('.', '')}" if dotless else f"ema.{name}"

    faults = [f"{name} has no averaged copy {copy(name)}" for name in raw if name not in average]
    faults += [f"{copy(name)} is an averaged copy of nothing: {name} is missing" for name in average if name not in raw]
    faults += [f"{copy(name)} is {tuple(average[name].shape)}, {name} {tuple(raw[name].shape)}"
               for name in raw if name in average and average[name].shape != raw[name].shape]
    if faults:
        raise CheckpointError(f"averaged and raw weights do not match: {shortened(faults)}; convert the raw weights "
                              "instead (--no-ema).")


def _skip(contents: Contents, why: str, names: list[str]) -> None:
    if names:
        known = contents.skipped.setdefault(why, [])
        known += [name for name in names if name not in known]


def shortened(names: list[str], limit: int = 50) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

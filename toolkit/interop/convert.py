"""From a published checkpoint to a tokenizer of ours."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toolkit.build import build_component
from toolkit.contracts import CheckpointFamily, Discriminator
from toolkit.interop.files import CheckpointError, Contents, Tensors, read_file, shortened, sort_contents
from toolkit.interop.layout import build
from toolkit.plugins import PluginError, in_one_line, warn_once
from toolkit.registry import CHECKPOINTS
from toolkit.saving import save_component
from toolkit.tokenizer import Tokenizer


@dataclass
class Conversion:
    """A converted checkpoint.

    Attributes:
        tokenizer: In eval mode, float32, on the CPU.
        discriminator: The one it was trained against, if the file has it.
        layout: Of the checkpoint.
        ema: Whether the weights are the averaged ones.
        skipped: Reason -> names of tensors and sections that were not used.

    Example:
        >>> sorted(Conversion.__dataclass_fields__)
        ['discriminator', 'ema', 'layout', 'skipped', 'tokenizer']
    """

    tokenizer: Tokenizer
    discriminator: Discriminator | None
    layout: str
    ema: bool
    skipped: dict[str, list[str]]

    def save(self, directory: str | Path) -> None:
        """Write a tokenizer directory, and the discriminator in its ``discriminator/``."""
        self.tokenizer.save_pretrained(directory)
        folder = Path(directory) / "discriminator"
        if self.discriminator is not None:
            save_component(self.discriminator, folder)
        elif (folder / "config.json").is_file():
            shutil.rmtree(folder)  # of an earlier conversion; training would continue with it


def convert_checkpoint(path: str | Path, layout: str | None = None, *, ema: bool = True,
                       discriminator: bool = True) -> Conversion:
    """Convert a checkpoint of another code base; all of it must fit.

    Args:
        layout: A name in :data:`toolkit.registry.CHECKPOINTS`; None: the family with the highest score.
        ema: Take the averaged weights where there are any.
        discriminator: Convert the discriminator too, where there is one of a known family.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read safely, is of no known layout or of several, or has tensors missing,
            left over or of another shape; the message names them.
        PluginError: If ``layout`` is of a plugin that cannot be used.

    Example:
        >>> convert_checkpoint("no/such/file.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint at no/such/file.ckpt: give a ...
    """
    return convert_tensors(read_file(path), layout, file_name=Path(path).name, ema=ema, discriminator=discriminator)


def convert_tensors(checkpoint: Mapping[str, Any], layout: str | None = None, *, file_name: str = "",
                    ema: bool = True, discriminator: bool = True) -> Conversion:
    """As :func:`convert_checkpoint`, from the content of the file.

    Example:
        >>> convert_tensors({"weight": torch.ones(1)})
        Traceback (most recent call last):
        toolkit.interop.files.CheckpointError: of no known layout: the checkpoint has weight; name one of ...
    """
    contents = sort_contents(checkpoint, ema=ema)
    family = (_recognised(contents.tokenizer, file_name) if layout is None else _named(layout))
    tokenizer = _converted(family, contents.tokenizer)
    if constants := list(family.constants(contents.tokenizer)):
        contents.skipped["constants"] = constants
    converted = _discriminator(contents, file_name, tokenizer.encoder.in_channels) if discriminator else None
    if not discriminator and contents.discriminator:
        contents.skipped["discriminator"] = list(contents.discriminator)
    return Conversion(tokenizer.eval(), converted, family.type_name, contents.ema, contents.skipped)


def load_checkpoint(path: str | Path, layout: str | None = None) -> Tokenizer:
    """The tokenizer of a published checkpoint, ready to use; see :func:`convert_checkpoint`.

    Example:
        >>> load_checkpoint("no/such/file.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint at no/such/file.ckpt: give a ...
    """
    return convert_checkpoint(path, layout, discriminator=False).tokenizer


def _families(component: str) -> Iterator[CheckpointFamily]:
    """The families of a component; a plugin that fails is logged and skipped."""
    for name in dict.fromkeys(row[0] for row in CHECKPOINTS.listing()):
        try:
            family = build_component(CHECKPOINTS, {"type": name})
        except (PluginError, TypeError) as error:
            warn_once(str(error))
            continue
        if family.component == component:
            yield family


def _layouts() -> str:
    return ", ".join(family.type_name for family in _families("tokenizer"))


def _named(layout: str) -> CheckpointFamily:
    if layout in CHECKPOINTS and (family := CHECKPOINTS.get(layout)()).component == "tokenizer":
        return family
    raise CheckpointError(f"no layout is called {layout!r}; there are {_layouts()}.")


def _scores(component: str, tensors: Tensors, file_name: str) -> dict[CheckpointFamily, float]:
    """The score of each family; a family that fails is logged and skipped."""
    scores = {}
    for family in _families(component):
        try:
            scores[family] = family.score(tensors, file_name)
        except Exception as error:  # a third-party family may raise anything
            warn_once(f"checkpoint family {family.type_name!r} is skipped: it fails on {file_name} "
                      f"({in_one_line(error)}).")
    return scores


def _fits(family: CheckpointFamily, tensors: Tensors) -> bool:
    """Whether the family accounts for every tensor."""
    try:
        family.state_dict(tensors)
    except Exception as error:  # a third-party family may raise anything
        if not isinstance(error, CheckpointError):
            warn_once(f"checkpoint family {family.type_name!r} is skipped: {in_one_line(error)}.")
        return False
    return True


def _recognised(tensors: Tensors, file_name: str) -> CheckpointFamily:
    scores = _scores("tokenizer", tensors, file_name)
    if not any(scores.values()):
        raise CheckpointError(f"of no known layout: the checkpoint has {shortened(list(tensors), 8) or 'no tensors'}; "
                              f"name one of {_layouts()}.")
    fitting = [family for family, score in scores.items() if score and _fits(family, tensors)]
    if not fitting:
        return max(scores, key=scores.get)  # whose error says what does not fit
    if len(fitting) > 1:
        names = [family.type_name for family in fitting]
        described = "; ".join(f"{name}: {(inspect.getdoc(family) or '').partition(chr(10))[0].rstrip('.')}"
                              for name, family in zip(names, fitting, strict=True))
        raise CheckpointError(f"the tensors do not tell {' from '.join(names)}, and the layouts give other tokens "
                              f"({described}); name one: --layout {names[0]} (layout={names[0]!r}).")
    return fitting[0]


def _discriminator(contents: Contents, file_name: str, in_channels: int) -> Discriminator | None:
    tensors, prefix = contents.discriminator, contents.discriminator_prefix
    if not tensors:
        return None
    scores = _scores("discriminator", tensors, file_name)
    family = max(scores, key=scores.get)
    if scores[family] <= 0.5:
        contents.skipped["a discriminator of no known kind"] = [prefix + name for name in tensors]
        return None
    try:
        discriminator = _converted(family, tensors)
        if discriminator.in_channels != in_channels:
            first = [f"{prefix}{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()
                     if tensor.ndim > 3 and discriminator.in_channels in tensor.shape]
            raise CheckpointError(f"it takes {discriminator.in_channels} image channels, the tokenizer {in_channels}: "
                                  f"{shortened(first)}.")
    except CheckpointError as error:
        raise CheckpointError(f"the discriminator: {error} Convert without it: --no-discriminator.") from error
    if constants := [prefix + name for name in family.constants(tensors)]:
        contents.skipped.setdefault("constants", []).extend(constants)
    return discriminator.train()


def _converted(family: CheckpointFamily, tensors: Tensors) -> Any:
    config, state_dict = family.config(tensors), family.state_dict(tensors)
    with torch.random.fork_rng(devices=[]):  # the random weights are all replaced
        module = build(family, config)
    try:
        module.load_state_dict(state_dict)
    except RuntimeError as error:
        raise CheckpointError(f"layout {family.type_name}: its state_dict does not fit its config "
                              f"({in_one_line(error)}); tell its author.") from error
    return module

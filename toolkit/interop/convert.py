"""From a published checkpoint to a tokenizer of ours."""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.build import build_component, build_tokenizer
from toolkit.contracts import Discriminator
from toolkit.interop.files import CheckpointError, Contents, Tensors, _listed, read_file, sort_contents
from toolkit.interop.layout import Layout
from toolkit.interop.o2_magvit2 import O2MAGVIT2, O2Discriminator
from toolkit.interop.open_magvit2 import OpenMAGVIT2
from toolkit.interop.patchgan import PatchGAN
from toolkit.interop.praxis import Praxis, PraxisDiscriminator
from toolkit.interop.vqgan import LlamaGen, Taming
from toolkit.registry import DISCRIMINATORS
from toolkit.saving import save_component
from toolkit.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

LAYOUTS: dict[str, type[Layout]] = {
    layout.name: layout for layout in (O2MAGVIT2, OpenMAGVIT2, LlamaGen, Taming, Praxis)}
_DISCRIMINATORS = (O2Discriminator, PraxisDiscriminator, PatchGAN)


@dataclass
class Conversion:
    """A converted checkpoint.

    Attributes:
        tokenizer: In eval mode, float32, on the CPU.
        discriminator: The one it was trained against, if the file has it.
        layout: Of the checkpoint.
        ema: Whether the weights are the averaged ones.
        skipped: Why -> names of tensors and sections that were left out.

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
        rival = Path(directory) / "discriminator"
        if self.discriminator is not None:
            save_component(self.discriminator, rival)
        elif (rival / "config.json").is_file():
            shutil.rmtree(rival)  # another conversion's, which training would take for this one's


def convert_checkpoint(path: str | Path, layout: str | None = None, *, ema: bool = True,
                       discriminator: bool = True) -> Conversion:
    """Convert a checkpoint of another code base; all of it must fit.

    Args:
        path: The file.
        layout: One of :data:`LAYOUTS`; None: recognise it.
        ema: Take the averaged weights where there are any.
        discriminator: Carry the discriminator along where there is one of a known kind.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read safely, is of no known layout, or has tensors missing,
            left over or of another shape; the message names them.

    Example:
        >>> convert_checkpoint("no/such/file.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint at no/such/file.ckpt: give a ...
    """
    return convert_tensors(read_file(path), layout, ema=ema, discriminator=discriminator)


def convert_tensors(found: Mapping[str, Any], layout: str | None = None, *, ema: bool = True,
                    discriminator: bool = True) -> Conversion:
    """As :func:`convert_checkpoint`, from what the file holds.

    Example:
        >>> convert_tensors({"weight": torch.ones(1)})
        Traceback (most recent call last):
        toolkit.interop.files.CheckpointError: of no known layout: the checkpoint has weight; name one of ...
    """
    contents = sort_contents(found, ema=ema)
    family = _family(contents.tokenizer, layout)(contents.tokenizer, contents.prefix)
    config = family.config()
    tokenizer = _filled(family, partial(build_tokenizer, config))
    for name in family.constants():
        contents.skipped.setdefault("constants", []).append(name)
    rival = _discriminator(contents, tokenizer.encoder.in_channels) if discriminator else None
    if not discriminator and contents.discriminator:
        contents.skipped["discriminator"] = list(contents.discriminator)
    return Conversion(tokenizer.eval(), rival, family.name, contents.ema, contents.skipped)


def load_checkpoint(path: str | Path, layout: str | None = None) -> Tokenizer:
    """The tokenizer of a published checkpoint, ready to use; see :func:`convert_checkpoint`.

    Example:
        >>> load_checkpoint("no/such/file.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no checkpoint at no/such/file.ckpt: give a ...
    """
    return convert_checkpoint(path, layout, discriminator=False).tokenizer


def _family(tensors: Tensors, layout: str | None) -> type[Layout]:
    if layout is not None:
        if layout not in LAYOUTS:
            raise CheckpointError(f"no layout is called {layout!r}; there are {', '.join(LAYOUTS)}.")
        return LAYOUTS[layout]
    votes = Counter({family: sum(bool(re.match(family.marks, name)) for name in tensors)
                     for family in LAYOUTS.values()})
    family, matches = votes.most_common(1)[0]
    if not matches:
        raise CheckpointError(f"of no known layout: the checkpoint has {_listed(list(tensors), 8) or 'no tensors'}; "
                              f"name one of {', '.join(LAYOUTS)}.")
    return family


def _discriminator(contents: Contents, in_channels: int) -> Discriminator | None:
    tensors, prefix = contents.discriminator, contents.discriminator_prefix
    kinds = [kind for kind in _DISCRIMINATORS
             if sum(bool(re.match(kind.marks, name)) for name in tensors) * 2 > len(tensors)]
    if not tensors or not kinds:
        contents.skipped |= {"a discriminator of no known kind": [prefix + name for name in tensors]} if tensors else {}
        return None
    try:
        family = kinds[0](tensors, prefix)
        rival = _filled(family, partial(build_component, DISCRIMINATORS, family.config(), in_channels=in_channels))
    except CheckpointError as error:
        raise CheckpointError(f"the discriminator: {error} Convert without it: --no-discriminator.") from error
    if constants := [prefix + name for name in family.constants()]:
        contents.skipped.setdefault("constants", []).extend(constants)
    return rival.train()


def _filled(family: Layout, build: Callable[[], nn.Module]) -> Any:
    """What ``build`` makes, with the checkpoint's weights."""
    with torch.device("meta"):  # without memory, for the names: a checkpoint that does not fit costs nothing
        weights = family.weights_for(build())
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are all replaced
        module = build()
    module.load_state_dict(weights)
    return module

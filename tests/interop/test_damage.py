"""One tensor renamed, dropped or reshaped, and nothing converts: the message names it.

The tensors are on torch's meta device, without values, since names and shapes are all that is looked at.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from interop.foreign import Tensors, foreign, lightning, llamagen, o2_trainer, patchgan, praxis, taming_names

from toolkit.interop import CheckpointError, convert_tensors, layout

Sections = dict[str, Tensors]


def bare(raw: Tensors, *_: Tensors | None) -> Tensors:
    return raw


# Name -> reference network, what its sections are put into, and the sections that are damaged.
ALL, ALL_RAW = ("raw", "ema", "discriminator"), ("raw", "discriminator")
CHECKPOINTS: dict[str, tuple[str, Callable[..., Any], tuple[str, ...]]] = {
    "o2 video": ("o2_video_tiny", o2_trainer, ALL_RAW), "o2 image": ("o2_image_tiny", o2_trainer, ALL_RAW),
    "o2 bare": ("o2_video_tiny", bare, ("raw",)),
    "open_magvit2 video": ("open_magvit2_video_tiny", lightning, ALL),
    "open_magvit2 image": ("open_magvit2_image_tiny", lightning, ALL),
    "open_magvit2 video without EMA": ("open_magvit2_video_tiny", lightning, ("raw",)),
    "open_magvit2 image without EMA": ("open_magvit2_image_tiny", lightning, ("raw",)),
    "llamagen": ("llamagen_vq_tiny", llamagen, ALL), "llamagen without EMA": ("llamagen_vq_tiny", llamagen, ("raw",)),
    "taming": ("llamagen_vq_tiny", bare, ("raw",)), "praxis": ("praxis_video_tiny", praxis, ALL_RAW)}
FREE = {"quantize.embedding.weight": 0, "linear0.weight": 1, "proj/mlp_layers_0/linear/w": 0}  # tensor -> axis
PLACES = [(checkpoint, section) for checkpoint, (_, _, sections) in CHECKPOINTS.items() for section in sections]


def without_values(tensors: Tensors) -> Tensors:
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def sections_of(checkpoint: str) -> Sections:
    name, _, damaged = CHECKPOINTS[checkpoint]
    case = foreign(name)
    raw = without_values(taming_names(case.tensors) if checkpoint == "taming" else case.tensors)
    discriminator = without_values(case.discriminator or patchgan(video=case.pixels.shape[2] > 1))
    return {"raw": raw, "discriminator": discriminator} | ({"ema": dict(raw)} if "ema" in damaged else {})


def new_names(name: str) -> Iterator[str]:
    """The name with one of its numbers raised, and names of nothing."""
    for number in re.finditer(r"\d+", name):
        for changed in (int(number[0]) + 1, 7, 77):
            yield f"{name[:number.start()]}{changed}{name[number.end():]}"
    separator = "/" if "/" in name else "."
    first, *rest = name.split(separator)
    yield f"{name}_nonsense"
    yield f"{name}{separator}extra"
    yield separator.join([first, "nonsense", *rest])


def new_shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield (math.prod(shape),)
    yield shape[::-1]
    yield (1, *shape)
    yield (*shape, 1)
    if len(shape) > 1:
        yield (shape[1], shape[0], *shape[2:])
    for axis in range(len(shape)):
        yield (*shape[:axis], shape[axis] + 1, *shape[axis + 1:])
        yield (*shape[:axis], shape[axis] * 2, *shape[axis + 1:])


def damages(name: str, tensors: Tensors) -> list[tuple[str, Tensors]]:
    """(what, the section with one tensor damaged)

    A codebook of more codes is not damaged, nor a discriminator for larger clips: one tensor alone has these sizes.
    """
    others = {key: value for key, value in tensors.items() if key != name}
    tensor = tensors[name]
    made = [("dropped", others)]
    made += [(f"renamed to {new}", others | {new: tensor})
             for new in dict.fromkeys(new_names(name)) if new not in tensors]
    made += [(f"reshaped to {shape}", tensors | {name: torch.empty(shape, dtype=tensor.dtype, device="meta")})
             for shape in dict.fromkeys(new_shapes(tuple(tensor.shape))) if shape != tuple(tensor.shape)
             and not any(name == key and len(shape) == 2 and shape[not axis] == tensor.shape[not axis]
                         for key, axis in FREE.items())]
    return made


def complaint(checkpoint: str, sections: Sections) -> str:
    """The message of the refusal, or what came instead of one."""
    content = CHECKPOINTS[checkpoint][1](sections["raw"], sections.get("ema"), sections["discriminator"])
    try:
        with torch.device("meta"):
            convert_tensors(content, "taming" if checkpoint == "taming" else None)
    except CheckpointError as error:
        return str(error)
    except Exception as error:  # another kind of error is a finding, to be listed with the rest
        return f"!! {type(error).__name__}: {error}"
    return "!! converted"


@pytest.fixture
def build_once(monkeypatch):
    """A network without values is built once for each config: its names and shapes are all that is looked at."""
    build, networks = layout.build, {}

    def build_or_reuse(family, config):
        key = family.type_name, repr(config)
        if key not in networks:
            networks[key] = build(family, config)
        return networks[key]
    monkeypatch.setattr(layout, "build", build_or_reuse)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_undamaged_checkpoint_converts(checkpoint):
    assert complaint(checkpoint, sections_of(checkpoint)) == "!! converted"


@pytest.mark.parametrize("share", [0.02, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize(("checkpoint", "section"), PLACES)
def test_single_damages_are_refused_with_the_tensors_name_in_one_line(checkpoint, section, share, build_once):
    draw, sections, silent = random.Random(f"{checkpoint} {section}"), sections_of(checkpoint), []
    for name in sections[section]:
        kept = [damage for damage in damages(name, sections[section]) if draw.random() < share]
        for what, damaged in kept:
            message = complaint(checkpoint, sections | {section: damaged})
            names = (name, what.removeprefix("renamed to ")) if what.startswith("renamed") else (name,)
            named = any(n in message or n.replace(".", "") in message for n in names)  # averaged copies have no dots
            if message.startswith("!!") or "\n" in message or not named:
                silent.append(f"{name} {what}: {message[:300]}")
    assert silent == []

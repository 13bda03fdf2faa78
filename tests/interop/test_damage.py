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
from interop.foreign import Tensors, lightning, llamagen, o2_trainer, patchgan, prefixed, taming_names

from toolkit.interop import CheckpointError, convert_tensors

# What the sections of a case are put into, and the section that is damaged.
CHECKPOINTS: dict[str, tuple[str, Callable[[dict[str, Tensors]], Any], tuple[str, ...]]] = {
    "o2 video": ("o2_video_tiny", lambda s: o2_trainer(s["raw"], s["discriminator"]), ("raw", "discriminator")),
    "o2 image": ("o2_image_tiny", lambda s: o2_trainer(s["raw"], s["discriminator"]), ("raw", "discriminator")),
    "o2 bare": ("o2_video_tiny", lambda s: s["raw"], ("raw",)),
    "open_magvit2 video": ("open_magvit2_video_tiny", lambda s: lightning(s["raw"], s["ema"], s["discriminator"]),
                           ("raw", "ema", "discriminator")),
    "open_magvit2 image": ("open_magvit2_image_tiny", lambda s: lightning(s["raw"], s["ema"], s["discriminator"]),
                           ("raw", "ema", "discriminator")),
    "open_magvit2 video without EMA": (
        "open_magvit2_video_tiny", lambda s: lightning(s["raw"], None, s["discriminator"]), ("raw",)),
    "open_magvit2 image without EMA": (
        "open_magvit2_image_tiny", lambda s: lightning(s["raw"], None, s["discriminator"]), ("raw",)),
    "llamagen": ("llamagen_vq_tiny", lambda s: llamagen(s["raw"], s["ema"], s["discriminator"]),
                 ("raw", "ema", "discriminator")),
    "llamagen without EMA": ("llamagen_vq_tiny", lambda s: llamagen(s["raw"], None, s["discriminator"]), ("raw",)),
    "taming": ("llamagen_vq_tiny", lambda s: {"state_dict": s["taming"]}, ("taming",)),
    "praxis": ("praxis_video_tiny", lambda s: s["raw"] | prefixed("discriminator/", s["discriminator"]),
               ("raw", "discriminator"))}
FREE = {"quantize.embedding.weight": 0, "linear0.weight": 1, "proj/mlp_layers_0/linear/w": 0}  # tensor -> axis
PLACES = [(checkpoint, section) for checkpoint, (_, _, sections) in CHECKPOINTS.items() for section in sections]


def without_values(tensors: Tensors) -> Tensors:
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def sections_of(foreign, name: str) -> dict[str, Tensors]:
    case = foreign(name)
    raw = without_values(case.tensors)
    return {"raw": raw, "ema": dict(raw), "taming": taming_names(raw) if case.layout == "llamagen" else {},
            "discriminator": without_values(case.discriminator or patchgan(video=case.pixels.shape[2] > 1))}


def new_names(name: str, tensors: Tensors) -> Iterator[str]:
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
             for new in dict.fromkeys(new_names(name, tensors)) if new not in tensors]
    made += [(f"reshaped to {shape}", tensors | {name: torch.empty(shape, dtype=tensor.dtype, device="meta")})
             for shape in dict.fromkeys(new_shapes(tuple(tensor.shape))) if shape != tuple(tensor.shape)
             and not any(name == key and len(shape) == 2 and shape[not axis] == tensor.shape[not axis]
                         for key, axis in FREE.items())]
    return made


def complaint(content: Any, checkpoint: str) -> str:
    """The message of the refusal, or what came instead of one."""
    try:
        with torch.device("meta"):
            convert_tensors(content, "taming" if checkpoint == "taming" else None)
    except CheckpointError as error:
        return str(error)
    except Exception as error:  # another kind of error is a finding, to be listed with the rest
        return f"!! {type(error).__name__}: {error}"
    return "!! converted"


def silent(foreign, checkpoint: str, section: str, keep: Callable[[], bool]) -> list[str]:
    """The damages, of those that are kept, whose message does not name the tensor in one line."""
    case, wrap, _ = CHECKPOINTS[checkpoint]
    sections, found = sections_of(foreign, case), []
    for name in sections[section]:
        kept = [damage for damage in damages(name, sections[section]) if keep()]
        for what, damaged in kept:
            message = complaint(wrap(sections | {section: damaged}), checkpoint)
            names = (name, what.removeprefix("renamed to ")) if what.startswith("renamed") else (name,)
            named = any(n in message or n.replace(".", "") in message for n in names)  # averaged copies have no dots
            if message.startswith("!!") or "\n" in message or not named:
                found.append(f"{name} {what}: {message[:300]}")
    return found


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_undamaged_checkpoint_converts(foreign, checkpoint):
    case, wrap, _ = CHECKPOINTS[checkpoint]
    assert complaint(wrap(sections_of(foreign, case)), checkpoint) == "!! converted"


@pytest.mark.parametrize("share", [0.02, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize(("checkpoint", "section"), PLACES)
def test_single_damages_are_refused_with_the_tensors_name(foreign, checkpoint, section, share):
    draw = random.Random(f"{checkpoint} {section}")
    assert silent(foreign, checkpoint, section, lambda: draw.random() < share) == []

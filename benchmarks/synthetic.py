"""Checkpoints with random weights that look like the published ones: same tensor names, wrapping and file format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from published import Published
from torch import Tensor

from toolkit import build_tokenizer, load_config
from toolkit.registry import CHECKPOINTS

CONFIGS = Path(__file__).parents[1] / "configs" / "_base_" / "networks"


def write_checkpoint(entry: Published, folder: Path, *, filters: int = 8) -> Path:
    """Write what an entry's file would be if its network were narrow, shallow and untrained."""
    tensors = _their_tensors(entry, filters)
    path = folder / entry.file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(_WRAPPINGS[entry.layout](tensors), path)
    return path


def small_config(entry: Published, filters: int) -> dict[str, Any]:
    """The tokenizer's config: the published strides, but few filters and one residual block per level."""
    config = load_config(CONFIGS / f"{entry.network}.py").tokenizer.to_dict()
    multipliers = entry.changes.get("channel_multipliers", config["encoder"]["channel_multipliers"])
    for part in (config["encoder"], config["decoder"]):
        part |= {"filters": filters, "channel_multipliers": multipliers, "num_res_blocks": 1}
        if "temporal_downsample" in part:
            part["temporal_downsample"] = part["temporal_downsample"][-(len(multipliers) - 1):]
    if "z_channels" in config["encoder"]:
        config["encoder"]["z_channels"] = config["decoder"]["z_channels"] = 2 * filters
    if "bits" in entry.changes:
        config["quantizer"]["bits"] = entry.changes["bits"]
    return config


def _their_tensors(entry: Published, filters: int) -> dict[str, Tensor]:
    """Our random weights under the family's names, and the buffers that its files have besides."""
    config = small_config(entry, filters)
    tokenizer = build_tokenizer(config)
    family = CHECKPOINTS.get(entry.layout)()  # not bound: there are no tensors yet
    family.video = config["encoder"].get("temporal_kernel", 1) > 1
    family.num_levels = len(config["encoder"]["channel_multipliers"])
    family.num_res_blocks = config["encoder"]["num_res_blocks"]
    family.tensors = {}
    for name, tensor in tokenizer.state_dict().items():
        family.tensors[family.their_name(name)] = tensor.reshape(family.their_shape(name, tuple(tensor.shape))).clone()
    constants = {}
    for name, shape in family.constant_shapes().items():
        constants[name] = 2 ** torch.arange(shape[0]).flip(0) if name == "quantize.mask" else torch.zeros(shape)
    return family.tensors | constants


def _lightning(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Lightning's, with an averaged copy whose names have no dots; the raw weights are others, to tell them apart."""
    average = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in tensors.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(1)}
    raw = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    loss = {"loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 4, 1, 1)}
    return {"epoch": 1, "global_step": 1, "optimizer_states": [{"state": {}}],
            "state_dict": raw | loss | average | counters}


def _model_and_ema(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """LlamaGen's."""
    raw = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    return {"model": raw, "ema": tensors, "optimizer": {"state": {}}, "steps": 1, "args": argparse.Namespace(lr=1e-4)}


_WRAPPINGS = {"open_magvit2": _lightning, "llamagen": _model_and_ema, "o2_magvit2": dict}

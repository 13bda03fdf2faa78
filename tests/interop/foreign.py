"""Checkpoints as other systems write them, of the reference networks in tests/golden (README.md there)."""

from __future__ import annotations

import argparse
import json
import os
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]

GOLDEN = Path(__file__).parents[1] / "golden"

LAYOUT_OF = {"o2_video_tiny": "o2_magvit2", "o2_image_tiny": "o2_magvit2", "open_magvit2_video_tiny": "open_magvit2",
             "open_magvit2_image_tiny": "open_magvit2", "llamagen_vq_tiny": "llamagen", "praxis_video_tiny": "praxis"}
CASES = tuple(LAYOUT_OF)
LAYOUT_OF["ibq_tiny"] = "ibq"  # not among the cases: its names do not tell it from taming


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to ``tolerance`` of the largest number, in float32 and between two orders of summation."""
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def recipe(key: str, shape: list[int] | tuple[int, ...]) -> Tensor:
    """The numbers of a weight; a slash tells a name of praxis, whose kernels have the inputs before the outputs."""
    value = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if "/" in key:
        value = value / np.sqrt(np.prod(shape[:-1])) if key.endswith("/w") else 0.1 * value
    elif len(shape) >= 2:
        value = value / np.sqrt(np.prod(shape[1:]))
    else:
        value = 1 + 0.1 * value if key.endswith("weight") else 0.1 * value
    return torch.from_numpy(value.astype(np.float32))


def blur(shape: list[int]) -> Tensor:
    """The normalised 1 2 1 filter on every axis, for each channel."""
    line = kernel = torch.tensor([0.25, 0.5, 0.25])
    for _ in shape[3:]:
        kernel = kernel.unsqueeze(-1) * line
    return kernel.expand(*shape).clone()


class Foreign:
    """One reference network: its tensors by their own names, its input, its outputs (5-D, channels first)."""

    def __init__(self, case: str):
        self.layout = LAYOUT_OF[case]
        self.info = json.loads((GOLDEN / f"{case}.json").read_text())
        self.tensors = {name: self._tensor(name, shape) for name, shape in self.info["parameters"].items()}
        self.discriminator = {  # without a prefix
            name.removeprefix("discriminator/"): blur(shape) if name.endswith("blur.filt") else recipe(
                name if self.layout == "praxis" else f"discriminator.{name}", shape)
            for name, shape in self.info.get("discriminator_parameters", {}).items()}
        pixels = np.random.default_rng(zlib.crc32(case.encode())).uniform(-1, 1, self.info["input_shape"])
        self.pixels = five_d(torch.from_numpy(pixels.astype(np.float32)))
        self.arrays = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / f"{case}.npz").items()}
        self.latents, self.reconstruction = five_d(self.arrays["z"]), five_d(self.arrays["reconstruction"])
        grid = self.latents.shape[2:]
        self.indices = self.arrays["indices"].long().reshape(-1, *grid, 1)

    def _tensor(self, name: str, shape: list[int]) -> Tensor:
        if name == "quantize.mask":
            return 2 ** torch.arange(shape[0] - 1, -1, -1)
        if name == "quantize.codebook_used":
            return torch.zeros(shape)
        tensor = recipe(name, shape)
        unit_length = self.layout == "llamagen" and name == "quantize.embedding.weight"
        return nn.functional.normalize(tensor, dim=-1) if unit_length else tensor

    def decided(self) -> Tensor:
        """Where the latents are far enough from zero for float32 to tell their bits, in the shape of the indices."""
        if self.layout in ("llamagen", "ibq"):
            return torch.ones_like(self.indices, dtype=torch.bool)
        return (self.latents.abs() >= 1e-5).all(1).unsqueeze(-1)


foreign = cache(Foreign)  # each is made once


def five_d(x: Tensor) -> Tensor:
    return x if x.ndim == 5 else x.unsqueeze(2)


def garbage(tensors: Tensors) -> Tensors:
    return {name: torch.full_like(tensor, 7) for name, tensor in tensors.items()}


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def averaged(tensors: Tensors) -> Tensors:
    """Names of the averaged copy in a Lightning checkpoint."""
    return {"model_ema." + name.replace(".", ""): tensor for name, tensor in tensors.items()}


def patchgan_layers(*, video: bool = False) -> nn.Sequential:
    """taming's ``NLayerDiscriminator`` with three layers of 8 filters and more, or Open-MAGVIT2's 3-D one."""
    conv, norm, kernel = (nn.Conv3d, nn.BatchNorm3d, 3) if video else (nn.Conv2d, nn.BatchNorm2d, 4)
    layers: list[nn.Module] = [conv(3, 8, kernel, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for (ins, outs), stride in zip(pairwise((8, 16, 32, 64)), (2, 2, 1), strict=True):
        layers += [conv(ins, outs, kernel, stride=stride, padding=1, bias=False), norm(outs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, conv(64, 1, kernel, padding=1))


def patchgan(*, video: bool = False) -> Tensors:
    """A state dict of :func:`patchgan_layers`."""
    return {f"main.{name}": torch.tensor(100) if name.endswith("tracked") else
            recipe(f"discriminator.main.{name}", tensor.shape).abs()
            for name, tensor in patchgan_layers(video=video).state_dict().items()}


def o2_trainer(raw: Tensors, average: None, discriminator: Tensors) -> Tensors:
    """What O2-MAGVIT2's ``iter_N.ckpt`` holds; averaged weights are in another file."""
    return {**prefixed("tokenizer.", raw), **prefixed("discriminator.", discriminator),
            "perceptual_model.lin0.model.1.weight": torch.ones(1, 64, 1, 1),
            "perceptual_model.net.slice1.0.weight": torch.ones(64, 3, 3, 3)}


def lightning(raw: Tensors, average: Tensors | None, discriminator: Tensors) -> dict[str, Any]:
    """What Open-MAGVIT2's ``.ckpt`` files hold; the averaged copy has no buffers."""
    loss = prefixed("loss.discriminator.", discriminator)
    state = {**raw, **loss, "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 64, 1, 1)}
    if average is not None:
        learned = {name: tensor for name, tensor in loss.items() if name.rsplit(".", 1)[1] in ("weight", "bias")}
        state |= {**averaged(average), **averaged(garbage(learned)), "model_ema.decay": torch.tensor(0.999),
                  "model_ema.num_updates": torch.tensor(5)}
    return {"state_dict": state, "epoch": 3, "global_step": 40, "pytorch-lightning_version": "1.9.0",
            "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.ones(2)}},
                                  "param_groups": [{"lr": 1e-4, "betas": (0.5, 0.9)}]}]}


def llamagen(raw: Tensors, average: Tensors | None, discriminator: Tensors) -> dict[str, Any]:
    """What LlamaGen's training writes."""
    return {"model": raw, **({} if average is None else {"ema": average}), "optimizer": {"state": {}},
            "discriminator": discriminator, "optimizer_disc": {"state": {}}, "steps": 7,
            "args": argparse.Namespace(vq_model="VQ-16", ema=True, lr=1e-4)}


def praxis(raw: Tensors, average: None, discriminator: Tensors) -> Tensors:
    return raw | prefixed("discriminator/", discriminator)


def save_torch(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def save_npz(tensors: Tensors, path: Path) -> Path:
    np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    return path


def save_safetensors(tensors: Tensors, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


NATIVE = {"o2_magvit2": (o2_trainer, "iter_7.ckpt"), "open_magvit2": (lightning, "epoch=3.ckpt"),
          "llamagen": (llamagen, "0000007.pt"), "praxis": (praxis, "variables.npz")}


def native(case: Foreign, folder: Path) -> Path:
    """The checkpoint as the system itself publishes it: with everything that goes along, averaged where it does so."""
    wrap, name = NATIVE[case.layout]
    average = case.tensors if case.layout in ("open_magvit2", "llamagen") else None
    raw = case.tensors if average is None else garbage(average)
    content = wrap(raw, average, case.discriminator or patchgan(video=case.pixels.shape[2] > 1))
    return (save_npz if name.endswith(".npz") else save_torch)(content, folder / name)


def taming_names(tensors: Tensors) -> Tensors:
    """A LlamaGen state dict under taming-transformers' names, whose decoder counts levels from the finest."""
    levels = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("decoder.conv_blocks."))
    middle = {"0": "block_1", "1": "attn_1", "2": "block_2"}

    def rename(name: str) -> str:
        parts = name.split(".")
        if parts[1] == "mid":
            parts[2] = middle[parts[2]]
        if parts[1] == "conv_blocks":
            parts[1:3] = ["down", parts[2]] if parts[0] == "encoder" else ["up", str(levels - 1 - int(parts[2]))]
            parts[3] = {"res": "block"}.get(parts[3], parts[3])
        return ".".join(parts)

    return {rename(name): tensor for name, tensor in tensors.items() if name != "quantize.codebook_used"}


class RunsOnLoading:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)

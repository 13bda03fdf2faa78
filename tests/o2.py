"""The O2-MAGVIT2 reference networks: their recipe for weights, and the map of their names to ours."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

from toolkit.networks import MAGVIT2Decoder, MAGVIT2Encoder, StyleGANDiscriminator
from toolkit.quantizers import LFQ
from toolkit.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"


def recipe(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    value = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) >= 2:
        value = value / np.sqrt(np.prod(shape[1:]))
    else:
        value = 1 + 0.1 * value if key.endswith("weight") else 0.1 * value
    return torch.from_numpy(value.astype(np.float32))


def our_name(name: str) -> str:
    """An O2 tensor name, of the 2-D or the 3-D network, in our names."""
    name = re.sub(r"\.conv(\.(weight|bias))$", r"\1", name)  # the 3-D wrapper's inner convolution
    name = name.replace("norm_fn.", "").replace("conv1.weight", "conv.weight").replace("conv1.bias", "conv.bias")
    part, rest = name.split(".", 1)
    rest = rest.replace("conv_first", "conv_in").replace("conv_last", "conv_out").replace("final_norm", "norm_out")
    rest = re.sub(r"\.norm_0\.", ".norm1.", rest)
    rest = re.sub(r"\.norm_1\.", ".norm2.", rest)
    rest = rest.replace("conv_0.", "conv1.").replace("conv_1.", "conv2.").replace("conv_shortcut.", "shortcut.")
    rest = re.sub(r"res_blocks\.res_block_(pre|final)\.res_block_\w+_(\d+)\.", r"mid.\2.", rest)
    rest = re.sub(r"res_blocks\.res_block_(\d+)\.res_block_\d+_(\d+)\.", r"levels.\1.blocks.\2.", rest)
    rest = re.sub(r"conv_downsample_blocks\.conv_downsample_(\d+)\.?", r"levels.\1.downsample.", rest)
    rest = re.sub(r"conv_upsample_blocks\.conv_upsample_(\d+)\.", r"levels.\1.upsample.", rest)
    rest = re.sub(r"cond_norm_layers\.cond_norm_(\d+)\.", r"levels.\1.norm.", rest)
    return f"{part}.{rest}"


def our_discriminator_name(name: str) -> str:
    name = name.replace("res_blocks", "blocks").replace("linear1", "linear2").replace("linear0", "linear1")
    return name.replace("conv2", "shortcut").replace("conv3", "conv2")


class Case:
    """One reference network with its recipe weights, rebuilt from our parts."""

    def __init__(self, name: str):
        self.info = json.loads((GOLDEN / f"{name}.json").read_text())
        self.arrays = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items()}
        info, video = self.info, name.endswith("video_tiny")
        network = dict(filters=info["filters"], channel_multipliers=tuple(info["channel_multipliers"]),
                       num_res_blocks=info["num_res_blocks"], temporal_kernel=3 if video else 1,
                       temporal_downsample=tuple(video and halve for halve in info["temporal_downsample"]))
        self.tokenizer = Tokenizer(MAGVIT2Encoder(out_channels=info["bits"], **network), LFQ(bits=info["bits"]),
                                   MAGVIT2Decoder(in_channels=info["bits"], **network))
        side = info["spatial_size"]
        self.discriminator = StyleGANDiscriminator(
            filters=info["filters"], channel_multipliers=tuple(info["discriminator_multipliers"]),
            size=(info["num_frames"], side, side), temporal_kernel=3 if video else 1)
        self.names = {key: our_name(key) for key in info["parameters"]
                      if key != "quantize.mask"}
        self.discriminator_names = {key: our_discriminator_name(key) for key in info["discriminator_parameters"]
                                    if not key.endswith("blur.filt")}
        self._load(self.tokenizer, self.names, info["parameters"], "")
        self._load(self.discriminator, self.discriminator_names, info["discriminator_parameters"], "discriminator.")
        pixels = np.random.default_rng(zlib.crc32(name.encode())).uniform(-1, 1, info["input_shape"])
        self.pixels = self.five_d(torch.from_numpy(pixels.astype(np.float32)))

    @staticmethod
    def five_d(x: torch.Tensor) -> torch.Tensor:
        return x if x.ndim == 5 else x.unsqueeze(2)

    @staticmethod
    def _load(module: torch.nn.Module, names: dict[str, str], shapes: dict, prefix: str) -> None:
        state = module.state_dict()
        weights = {ours: recipe(prefix + theirs, tuple(shapes[theirs])).reshape(state[ours].shape)
                   for theirs, ours in names.items()}
        module.load_state_dict(weights)

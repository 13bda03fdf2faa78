"""Google's MAGVIT-v2 layers (github.com/google/praxis, layers/video): arrays by slash-joined names, channels last.

Google published no weights; the layout serves comparison and those who trained with these layers.
"""

from __future__ import annotations

import re

from einops import rearrange
from torch import Tensor

from toolkit.interop.files import CheckpointError
from toolkit.interop.layout import Layout, MAGVIT2Layout, StyleGANLayout
from toolkit.registry import CHECKPOINTS


class _ChannelsLast(Layout):
    """Kernels are (k_t, k_h, k_w, in, out), linear weights (in, out), norms' vectors (1, 1, 1, C)."""

    def inspect(self) -> None:
        self.video = True
        super().inspect()

    def to_ours(self, ours: str, tensor: Tensor) -> Tensor:
        """Channels first; a stored gamma means a scale of 1 + gamma."""
        if tensor.ndim == 5:
            return rearrange(tensor, "t h w i o -> o i t h w")
        if tensor.ndim == 2:
            return rearrange(tensor, "i o -> o i")
        if tensor.ndim == 4:
            return tensor.flatten() + 1 if ours.endswith("weight") else tensor.flatten()
        return tensor

    def their_shape(self, ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) == 5:
            return (*shape[2:], shape[1], shape[0])
        is_norm = re.search(r"\.norm(1|2|_out)\.(weight|bias)$", ours)
        return (1, 1, 1, *shape) if is_norm else shape[::-1]


@CHECKPOINTS.register_module(name="praxis")
class Praxis(_ChannelsLast, MAGVIT2Layout):
    """Google's video tokenizer."""

    marks = r"(encoder|decoder)/"
    rules = {
        r"\.(gamma|beta)\.weight$": r".\1_linear/w", r"\.(gamma|beta)\.bias$": r".\1_bias/b",
        r"\.norm1\.": ".norm_0.", r"\.norm2\.": ".norm_1.", r"\.norm_out\.": ".norm.",
        r"(\.norm(?:_\d)?)\.weight$": r"\1.gamma", r"(\.norm(?:_\d)?)\.bias$": r"\1.beta",
        r"\.weight$": ".w", r"\.bias$": ".b",
        r"\.conv1\.": ".conv_0.", r"\.conv2\.": ".conv_1.", r"\.shortcut\.": ".conv_shortcut.",
        r"\.conv_in\.": ".conv_first.", r"\.conv_out\.": ".conv_last.",
        r"\.levels\.(\d+)\.downsample": r".conv_downsample_layers_\1",
        r"\.levels\.(\d+)\.upsample\.conv": r".conv_upsample_layers_\1",
        r"\.levels\.(\d+)\.norm": r".cond_norm_layers_\1", r"\.": "/"}
    options = {"padding": "replicate", "norm_eps": 1e-6}
    encoder_options = {"downsample_kernel": 4, "first_conv_bias": False}
    quantizer_options = {"bit_order": "lsb_first", "sign_of_zero": 1}

    def inspect(self) -> None:
        super().inspect()
        blocks = self.num_res_blocks  # of a whole network: as long as it was 0, mid's names ran through all of them
        if blocks % (self.num_levels + 1):
            raise CheckpointError(f"praxis: {blocks} residual blocks cannot be divided evenly among {self.num_levels} "
                                  "levels and the middle.")
        self.num_res_blocks = blocks // (self.num_levels + 1)

    def their_name(self, ours: str) -> str:
        """Google's name of our tensor; theirs number all residual blocks in the order of use."""
        per_level, levels = self.num_res_blocks, self.num_levels
        name = re.sub(r"^encoder\.mid\.(\d+)", lambda m: f"encoder.res_blocks_{levels * per_level + int(m[1])}", ours)
        name = re.sub(r"^decoder\.mid\.(\d+)", r"decoder.res_blocks_\1", name)
        name = re.sub(r"^(encoder|decoder)\.levels\.(\d+)\.blocks\.(\d+)", lambda m: (
            f"{m[1]}.res_blocks_{(int(m[2]) + (m[1] == 'decoder')) * per_level + int(m[3])}"), name)
        return super().their_name(name)


@CHECKPOINTS.register_module(name="praxis_discriminator")
class PraxisDiscriminator(_ChannelsLast, StyleGANLayout):
    """Google's StyleGAN discriminator, whose first linear layer takes positions before channels."""

    marks = r"proj/|res_blocks_\d+/"
    rules = {
        r"^linear1\.weight$": "proj/mlp_layers_0/linear/w", r"^linear1\.bias$": "proj/mlp_layers_0/bias/b",
        r"^linear2\.weight$": "proj/mlp_layers_1/linear/w", r"^linear2\.bias$": "proj/mlp_layers_1/bias/b",
        r"^conv_in\.": "conv_first.", r"^conv_out\.": "conv_last.", r"^blocks\.(\d+)\.": r"res_blocks_\1.",
        r"\.conv1\.": ".conv_first.", r"\.conv2\.": ".conv_last.", r"\.shortcut\.": ".conv_residual.",
        r"\.weight$": ".w", r"\.bias$": ".b", r"\.": "/"}
    blur_padding = "same"

    def to_ours(self, ours: str, tensor: Tensor) -> Tensor:
        """Channels first, also in what the first linear layer flattens."""
        tensor = super().to_ours(ours, tensor)
        channels = self.size("conv_out.bias", 0) if ours == "linear1.weight" else None
        if not channels or tensor.ndim != 2 or tensor.shape[1] % channels:
            return tensor
        return rearrange(tensor, "o (p c) -> o (c p)", c=channels)

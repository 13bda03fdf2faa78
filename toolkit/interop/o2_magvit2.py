"""O2-MAGVIT2 (github.com/cofe-ai/O2-MAGVIT2): ``pytorch_model.bin``, and its trainer's ``iter_N[_ema].ckpt``."""

from __future__ import annotations

import torch

from toolkit.interop.layout import MAGVIT2Layout, StyleGANLayout
from toolkit.plugins import warn_once
from toolkit.registry import CHECKPOINTS


@CHECKPOINTS.register_module(name="o2_magvit2")
class O2MAGVIT2(MAGVIT2Layout):
    """O2-MAGVIT2's image and video tokenizers."""

    marks = r"(encoder|decoder)\.(res_blocks\.|conv_(first|last|downsample_blocks|upsample_blocks)\b|cond_norm_layers)"
    rules = {
        r"\.norm1\.": ".norm_0.norm_fn.", r"\.norm2\.": ".norm_1.norm_fn.", r"\.norm_out\.": ".final_norm.norm_fn.",
        r"\.conv1\.": ".conv_0.", r"\.conv2\.": ".conv_1.", r"\.shortcut\.": ".conv_shortcut.",
        r"\.conv_in\.": ".conv_first.", r"\.conv_out\.": ".conv_last.",
        r"^encoder\.mid\.(\d+)": r"encoder.res_blocks.res_block_final.res_block_final_\1",
        r"^decoder\.mid\.(\d+)": r"decoder.res_blocks.res_block_pre.res_block_pre_\1",
        # Their slip: from its second block on, an encoder's level calls its blocks those of level 0.
        r"^encoder\.levels\.(\d+)\.blocks\.([1-9]\d*)": r"encoder.res_blocks.res_block_\1.res_block_0_\2",
        r"\.levels\.(\d+)\.blocks\.(\d+)": r".res_blocks.res_block_\1.res_block_\1_\2",
        r"\.levels\.(\d+)\.downsample": r".conv_downsample_blocks.conv_downsample_\1",
        r"\.levels\.(\d+)\.upsample\.conv": r".conv_upsample_blocks.conv_upsample_\1.conv1",
        r"\.levels\.(\d+)\.norm": r".cond_norm_layers.cond_norm_\1"}
    video_rules = {r"(\.conv\w*)\.(weight|bias)$": r"\1.conv.\2"}  # 3-D convolutions sit in a module that pads

    def inspect(self) -> None:
        super().inspect()
        self.quantizer_options = {"bit_order": self._bit_order()}

    def constant_shapes(self) -> dict[str, tuple[int, ...]]:
        """The quantizer's place values."""
        return {"quantize.mask": (self.num_bits(),)}

    def _bit_order(self) -> str:
        mask = self.tensors.get("quantize.mask")
        if mask is None or mask.is_meta:
            return "msb_first"
        place = 2 ** torch.arange(mask.numel(), dtype=torch.float64)
        if torch.equal(mask.flatten().double(), place) and mask.numel() > 1:
            return "lsb_first"
        if not torch.equal(mask.flatten().double(), place.flip(0)):
            warn_once("quantize.mask holds the place values in neither order and is not used: indices are in "
                      "O2-MAGVIT2's order, the first channel most significant.")
        return "msb_first"


@CHECKPOINTS.register_module(name="o2_magvit2_discriminator")
class O2Discriminator(StyleGANLayout):
    """O2-MAGVIT2's StyleGAN discriminators."""

    marks = r"res_blocks\.\d+\.|linear[01]\."
    rules = {r"\.conv2\.": ".conv3.", r"\.shortcut\.": ".conv2.", r"^blocks": "res_blocks",
             r"^linear1": "linear0", r"^linear2": "linear1"}
    blur_padding = "reflect"

    def constant_shapes(self) -> dict[str, tuple[int, ...]]:
        """The blur's filters."""
        kernel = (1, 3, 3, 3) if self.video else (1, 3, 3)
        return {f"res_blocks.{i}.blur.filt": (self.read("a width", [(f"blocks.{i}.conv1.weight", 0),
                                                                    (f"blocks.{i}.conv1.bias", 0)]), *kernel)
                for i in range(self.num_blocks)}

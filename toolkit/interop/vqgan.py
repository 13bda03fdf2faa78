"""The VQGAN network under the names of LlamaGen, taming-transformers and IBQ (github.com/TencentARC/SEED-Voken), and
their PatchGAN discriminator."""

from __future__ import annotations

from statistics import mode
from typing import Any, ClassVar

from toolkit.interop.files import CheckpointError
from toolkit.interop.layout import Layout
from toolkit.registry import CHECKPOINTS


class _VQGANLayout(Layout):
    """A family with the VQGAN network; the tensors do not tell how a code is chosen."""

    quantizer: ClassVar[dict[str, Any]]  # its config without sizes

    def inspect(self) -> None:
        """Count levels and the residual blocks of each."""
        networks = ("encoder", "decoder")
        self.num_levels = self.count("levels", ("encoder.levels.*.resample.conv.weight", 1), *(
            (f"{network}.levels.*.blocks.0.{layer}.weight", 0) for network in networks for layer in ("conv1", "conv2")))
        self.num_encoder_blocks, self.num_decoder_blocks = (self.count("residual blocks", *(
            (f"{network}.levels.{level}.blocks.*.{layer}.weight", 0) for level in range(self.num_levels)
            for layer in ("conv1", "conv2"))) for network in networks)

    def _attention(self, network: str) -> tuple[bool, ...]:
        """Whether the checkpoint has attention at each level of ours."""
        prefixes = [self.their_name(f"{network}.levels.{level}.attentions.") for level in range(self.num_levels)]
        return tuple(any(name.startswith(prefix) for name in self.tensors) for prefix in prefixes)

    def _codebook_size(self) -> int:
        size = self.read("the codebook's size", [("quantizer.codebook", 0)])
        if size < 2:
            name = self.their_name("quantizer.codebook")
            raise CheckpointError(f"{self.type_name}: a codebook has at least 2 codes, got {name} of shape "
                                  f"{tuple(self.tensors[name].shape)}.")
        return size

    def component_config(self) -> dict[str, Any]:
        """The tokenizer's config, read from the tensors but for the choice of a code."""
        filters = self.first_width()
        widths = self.level_widths(("conv1.weight", 0), ("conv1.bias", 0), ("norm2.weight", 0), ("norm2.bias", 0),
                                   ("conv2.weight", 0), ("conv2.bias", 0))
        dim = self.read("the codes' width", [("encoder.quant_conv.weight", 0), ("encoder.quant_conv.bias", 0),
                                             ("decoder.post_quant_conv.weight", 1), ("quantizer.codebook", 1)])
        z_channels = self.read("the width before the codes", [
            ("encoder.quant_conv.weight", 1), ("encoder.conv_out.weight", 0), ("encoder.conv_out.bias", 0),
            ("decoder.post_quant_conv.weight", 0), ("decoder.post_quant_conv.bias", 0), ("decoder.conv_in.weight", 1)])
        network = dict(filters=filters, channel_multipliers=tuple(width // filters for width in widths),
                       z_channels=z_channels)
        return dict(
            encoder=dict(type="VQGANEncoder", in_channels=self.image_channels(), **network,
                         num_res_blocks=self.num_encoder_blocks, attention=self._attention("encoder")),
            quantizer=dict(**self.quantizer, dim=dim, codebook_size=self._codebook_size()),
            decoder=dict(type="VQGANDecoder", out_channels=self.image_channels(), **network,
                         num_res_blocks=self.num_decoder_blocks, attention=self._attention("decoder")[::-1]))


_RULES = {
    r"\.query\.": ".q.", r"\.key\.": ".k.", r"\.value\.": ".v.", r"\.out\.": ".proj_out.",
    r"^encoder\.quant_conv": "quant_conv", r"^decoder\.post_quant_conv": "post_quant_conv",
    r"^quantizer\.codebook$": "quantize.embedding.weight", r"\.shortcut\.": ".nin_shortcut.",
    r"^(encoder.*)\.resample": r"\1.downsample", r"^(decoder.*)\.resample": r"\1.upsample",
    r"\.attentions\.": ".attn."}


@CHECKPOINTS.register_module(name="llamagen")
class LlamaGen(_VQGANLayout):
    """LlamaGen's VQ-8 and VQ-16: the code is the nearest row at unit length."""

    marks = r"(encoder|decoder)\.conv_blocks\."
    rules = _RULES | {r"\.levels\.": ".conv_blocks.", r"\.blocks\.": ".res."}
    quantizer = dict(type="VQ", normalize=True)

    def constant_shapes(self) -> dict[str, tuple[int, ...]]:
        """The record of the codes that training used lately."""
        return {"quantize.codebook_used": (65536,)}


@CHECKPOINTS.register_module(name="taming")
class Taming(_VQGANLayout):
    """VQGANs of taming-transformers: the code is the nearest row."""

    marks = r"(encoder|decoder)\.mid\.(block|attn)_\d\."
    rules = _RULES | {r"\.mid\.0\.": ".mid.block_1.", r"\.mid\.1\.": ".mid.attn_1.", r"\.mid\.2\.": ".mid.block_2.",
                      r"\.blocks\.": ".block.", r"^encoder\.levels": "encoder.down", r"^decoder\.levels": "decoder.up"}
    from_finest = True
    quantizer = dict(type="VQ", normalize=False)


@CHECKPOINTS.register_module(name="ibq")
class IBQ(Taming):
    """IBQ's and Emu3.5's VQGANs, with taming's names: the code is the row of the largest dot product."""

    quantizer = dict(type="IBQ")


@CHECKPOINTS.register_module(name="patchgan_discriminator")
class PatchGAN(Layout):
    """taming-transformers' ``NLayerDiscriminator``, also of LlamaGen, and its 3-D twin of Open-MAGVIT2."""

    component = "discriminator"
    marks = r"main\.\d+\."

    def component_config(self) -> dict[str, Any]:
        """The discriminator's config; all convolutions but two have a batch norm."""
        layers = mode(sum(name.endswith(kind) for name in self.tensors) for kind in (
            "running_mean", "running_var", "num_batches_tracked"))
        return dict(type="PatchGANDiscriminator", num_layers=max(1, layers), temporal_kernel=3 if self.video else 1,
                    in_channels=self.read("the discriminator's image channels", [("main.0.weight", 1)]),
                    filters=self.read("the discriminator's width", [
                        ("main.0.weight", 0), ("main.0.bias", 0), ("main.2.weight", 1)]))

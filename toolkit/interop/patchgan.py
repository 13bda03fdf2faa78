"""PatchGAN discriminators, which VQGAN, LlamaGen and Open-MAGVIT2 keep under the same names."""

from __future__ import annotations

from typing import Any

from toolkit.interop.layout import DiscriminatorLayout
from toolkit.registry import CHECKPOINTS


@CHECKPOINTS.register_module(name="patchgan_discriminator")
class PatchGAN(DiscriminatorLayout):
    """taming-transformers' ``NLayerDiscriminator``, and its 3-D twin of Open-MAGVIT2."""

    marks = r"main\.\d+\."

    def component_config(self) -> dict[str, Any]:
        """The discriminator's config; all convolutions but two have a batch norm."""
        layers = self.count("batch norms", *((rf"main\.(\d+)\.{kind}$", 0) for kind in (
            "running_mean", "running_var", "num_batches_tracked")))
        return dict(type="PatchGANDiscriminator", num_layers=layers, temporal_kernel=3 if self.video else 1,
                    in_channels=self.read("the discriminator's image channels", [("main.0.weight", 1)]),
                    filters=self.read("the discriminator's width", [
                        ("main.0.weight", 0), ("main.0.bias", 0), ("main.2.weight", 1)]))

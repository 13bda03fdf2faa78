"""PatchGAN discriminators, which VQGAN, LlamaGen and Open-MAGVIT2 keep under the same names."""

from __future__ import annotations

from typing import Any

from toolkit.interop.layout import Layout


class PatchGAN(Layout):
    """taming's ``NLayerDiscriminator``, and its 3-D twin.

    Example:
        >>> import torch
        >>> shapes = {"0.weight": (8, 3, 4, 4), "3.running_mean": (16,), "6.running_mean": (32,)}
        >>> PatchGAN({f"main.{name}": torch.ones(shape) for name, shape in shapes.items()}).config()["num_layers"]
        2
    """

    name = "PatchGAN discriminator"
    marks = r"main\.\d+\."

    def config(self) -> dict[str, Any]:
        """The discriminator's config but for its image channels; all convolutions but two have a batch norm."""
        layers = self.count("batch norms", *((rf"main\.(\d+)\.{kind}$", 0) for kind in (
            "running_mean", "running_var", "num_batches_tracked")))
        return dict(type="PatchGANDiscriminator", num_layers=layers, temporal_kernel=3 if self.video else 1,
                    filters=self.read("the discriminator's width", [
                        ("main.0.weight", 0), ("main.0.bias", 0), ("main.2.weight", 1)]))

    def their_name(self, ours: str) -> str:
        """The same."""
        return ours

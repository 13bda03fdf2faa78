"""LPIPS as a score."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from toolkit.contracts import Column
from toolkit.metrics.pixel import FrameMean
from toolkit.pretrained import Frozen, lpips_network
from toolkit.registry import METRICS


@functools.cache
def _network(net: str) -> Frozen:
    return lpips_network(net)  # one for all blocks and metrics


@METRICS.register_module()
class LPIPS(FrameMean):
    """Learned perceptual distance v0.1 (Zhang et al., arXiv:1801.03924), per frame, then averaged.

    The score is called ``lpips_alex`` or ``lpips_vgg``. Frames have their own size; the network runs in float32.

    Args:
        net: ``"alex"``, the usual one to report, or ``"vgg"``, with which tokenizers are often trained.

    Raises:
        ValueError: If ``net`` is another one.

    Example:
        >>> lpips, black = LPIPS(net="alex"), -torch.ones(1, 3, 2, 64, 64)
        >>> lpips.update(target=black, reconstruction=-black)
        >>> {name: round(score, 4) for name, score in lpips.compute().items()}
        {'lpips_alex': 0.814}
    """

    batch_size = 32  # frames at once, which bounds memory
    higher_is_better = {"lpips_alex": False, "lpips_vgg": False}
    columns = {"lpips_alex": Column("LPIPS (Alex)", ".3f"), "lpips_vgg": Column("LPIPS (VGG)", ".3f")}

    def __init__(self, *, net: str = "alex"):
        self.network = _network(net)
        self.name = f"lpips_{net}"
        self.higher_is_better = {self.name: False}
        self.columns = {self.name: type(self).columns[self.name]}
        super().__init__()

    def score(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Two batches of frames (N, 3, H, W) in [0, 1] -> (N,).

        Raises:
            ValueError: If the frames are not RGB, or a side is below 31 (``"alex"``) or 16 (``"vgg"``).
        """
        return torch.cat([self.network(one * 2 - 1, other * 2 - 1) for one, other in
                          zip(reconstruction.split(self.batch_size), target.split(self.batch_size), strict=True)])

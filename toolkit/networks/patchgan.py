"""The patch discriminator: one logit per patch of a frame or clip."""

from __future__ import annotations

from torch import Tensor, nn

from toolkit.contracts import Discriminator
from toolkit.layers import JointBatchNorm
from toolkit.registry import DISCRIMINATORS


@DISCRIMINATORS.register_module()
class PatchGANDiscriminator(Discriminator):
    """PatchGAN of pix2pix (Isola et al., arXiv:1611.07004) and VQGAN (arXiv:2012.09841), for frames or clips.

    ``temporal_kernel=1`` is VQGAN's network per frame, with 4 x 4 kernels. ``temporal_kernel=3`` is that of
    Open-MAGVIT2's video model, with 3 x 3 x 3 kernels, the first two of stride 2 in time. :attr:`main` has the
    published order of layers, so tensor names agree. Batch norms use the global batch of all processes.

    Args:
        in_channels: C.
        filters: Width of the first convolution; it doubles with each further one, up to eightfold.
        num_layers: Convolutions of stride 2, at most 16; two of stride 1 follow.
        temporal_kernel: 1 for frames, 3 for clips.

    Raises:
        ValueError: If ``num_layers`` is not from 1 to 16, or ``temporal_kernel`` neither 1 nor 3.

    Example:
        >>> import torch
        >>> PatchGANDiscriminator(filters=8)(torch.zeros(2, 3, 5, 32, 32)).shape
        torch.Size([2, 1, 5, 2, 2])
        >>> PatchGANDiscriminator(filters=8, temporal_kernel=3)(torch.zeros(2, 3, 5, 32, 32)).shape
        torch.Size([2, 1, 2, 4, 4])
    """

    size = None
    batch_statistics = True

    def __init__(self, *, in_channels: int = 3, filters: int = 64, num_layers: int = 3, temporal_kernel: int = 1):
        super().__init__()
        if not 1 <= num_layers <= 16 or temporal_kernel not in (1, 3):  # 16: frames of 200,000 pixels a side
            raise ValueError("PatchGANDiscriminator needs num_layers from 1 to 16 and a temporal_kernel of 1 (frames) "
                             f"or 3 (clips), got {num_layers} and {temporal_kernel}.")
        self.in_channels = in_channels
        # A kernel of 4 loses a row at each of the two convolutions without a stride, one of 3 loses none.
        self.smallest_side = 3 * 2**num_layers if temporal_kernel == 1 else 1
        kernel, padding = ((1, 4, 4), (0, 1, 1)) if temporal_kernel == 1 else ((3, 3, 3), (1, 1, 1))
        widths = [filters * 2 ** min(n, 3) for n in range(num_layers + 1)]
        strides = [(2 if temporal_kernel == 3 and n < 2 else 1, 2, 2) for n in range(num_layers)] + [(1, 1, 1)]
        layers = [nn.Conv3d(in_channels, filters, kernel, stride=strides[0], padding=padding),
                  nn.LeakyReLU(0.2, inplace=True)]
        for n in range(1, num_layers + 1):
            layers += [nn.Conv3d(widths[n - 1], widths[n], kernel, stride=strides[n], padding=padding, bias=False),
                       JointBatchNorm(widths[n]), nn.LeakyReLU(0.2, inplace=True)]
        self.main = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, kernel, padding=padding))
        for layer in self.main:
            if isinstance(layer, nn.Conv3d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, JointBatchNorm):
                nn.init.normal_(layer.weight, 1.0, 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, T, H, W) in [-1, 1] -> raw logits (B, 1, T', H', W').

        Raises:
            ValueError: If H or W is too small for one logit.
        """
        if min(pixels.shape[3:]) < self.smallest_side:
            raise ValueError(f"PatchGANDiscriminator takes frames of at least {self.smallest_side} x "
                             f"{self.smallest_side}, got {pixels.shape[3]} x {pixels.shape[4]}; enlarge the training "
                             "data's size or lower num_layers.")
        return self.main(pixels)

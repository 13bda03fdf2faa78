"""A vision transformer (arXiv:2010.11929) of each frame, with positions of one frame size, at toy size."""

import torch
from einops import rearrange
from torch import Tensor, nn

from toolkit import Encoder


class FrameViT(Encoder):
    """Videos (B, 3, T, size, size) of any T -> latents (B, d, T, size / patch, size / patch)."""

    in_channels, first_frame_alone, causal = 3, True, True

    def __init__(self, *, out_channels: int = 4, size: int = 16, patch: int = 4, width: int = 16):
        super().__init__()
        self.out_channels, self.size, self.stride = out_channels, size, (1, patch, patch)
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn((size // patch) ** 2, width) * 0.1)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.project = nn.Linear(width, out_channels)

    def fitting_size(self, size):
        if max(size[1:]) > self.size:
            raise ValueError(f"FrameViT takes frames of {self.size} x {self.size} or smaller, got {size}.")
        return size[0], self.size, self.size

    def grid(self, size):
        return super().grid(self.fitting_size(size))

    def forward(self, pixels: Tensor, cache: dict | None = None) -> Tensor:
        tokens = self.embed(rearrange(pixels, "b c t h w -> (b t) c h w"))
        grid = {"b": len(pixels), "h": tokens.shape[2]}
        tokens = self.block(rearrange(tokens, "n d h w -> n (h w) d") + self.positions)
        return rearrange(self.project(tokens), "(b t) (h w) d -> b d t h w", **grid)

"""Images of one size as N latents without a grid, in the manner of TiTok (arXiv:2406.07550), at toy size."""

from einops import rearrange
from torch import Tensor, nn

from toolkit import Decoder, Encoder


class OneDimensionalEncoder(Encoder):
    """Images (B, 3, 1, size, size) -> latents (B, d, 1, 1, N)."""

    in_channels, first_frame_alone, causal = 3, True, False

    def __init__(self, *, out_channels: int = 4, num_latents: int = 5, size: int = 16):
        super().__init__()
        self.out_channels, self.num_latents, self.size, self.stride = out_channels, num_latents, size, (1, size, size)
        self.mix = nn.Linear(3 * size**2, num_latents * out_channels)

    def fitting_size(self, size):
        if size[0] != 1 or max(size) > self.size:
            raise ValueError(f"OneDimensionalEncoder takes images up to {self.size} x {self.size}, got {size}.")
        return 1, self.size, self.size

    def grid(self, size):
        self.fitting_size(size)
        return 1, 1, self.num_latents

    def forward(self, pixels: Tensor, cache: dict | None = None) -> Tensor:
        return rearrange(self.mix(pixels.flatten(1)), "b (d n) -> b d 1 1 n", d=self.out_channels)


class OneDimensionalDecoder(Decoder):
    """Codes (B, d, 1, 1, N) -> images (B, 3, 1, size, size)."""

    out_channels, first_frame_alone, causal = 3, True, False

    def __init__(self, *, in_channels: int = 4, num_latents: int = 5, size: int = 16):
        super().__init__()
        self.in_channels, self.num_latents, self.size, self.stride = in_channels, num_latents, size, (1, size, size)
        self.hidden = nn.Linear(num_latents * in_channels, 3 * size**2)
        self.to_pixels = nn.Conv3d(3, 3, 1)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.to_pixels.weight

    def pixel_size(self, grid):
        if tuple(grid) != (1, 1, self.num_latents):
            raise ValueError(f"OneDimensionalDecoder takes codes (1, 1, {self.num_latents}), got {grid}.")
        return 1, self.size, self.size

    def forward(self, codes: Tensor, cache: dict | None = None) -> Tensor:
        pixels = self.hidden(codes.flatten(1)).tanh()
        return self.to_pixels(rearrange(pixels, "b (c h w) -> b c 1 h w", c=3, h=self.size))

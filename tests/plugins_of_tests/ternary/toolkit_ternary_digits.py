"""Each channel rounded to -1, 0 or 1, one codebook of three codes per channel."""

from torch import Tensor

from toolkit import Quantizer


class TernaryDigits(Quantizer):
    """Rounds latents; the commitment is pulled to the codes."""

    codebook_size, loss_weights = 3, {"commitment": 0.25}

    def __init__(self, *, dim: int = 4):
        super().__init__()
        self.dim = self.num_codebooks = dim

    def quantize(self, z: Tensor):
        codes = z.detach().clamp(-1, 1).round()
        losses = {"commitment": (z - codes).square().mean()}
        return z + (codes - z).detach() if self.training else codes, (codes + 1).long(), losses

    def lookup(self, indices: Tensor) -> Tensor:
        return indices.float() - 1

"""Continuous bottlenecks: the identity, and a Gaussian (Kingma & Welling, arXiv:1312.6114)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.contracts import Quantizer
from toolkit.registry import QUANTIZERS


class _Continuous(Quantizer):
    """A bottleneck without a codebook: its indices are None and its codebook_size is 0."""

    codebook_size = 0

    def __init__(self, *, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(f"{type(self).__name__} needs dim >= 1, got {dim}.")
        self.dim = dim

    def lookup(self, indices: Tensor) -> Tensor:
        raise NotImplementedError  # never called: there are no indices, and codes_from_indices raises ValueError


@QUANTIZERS.register_module()
class Identity(_Continuous):
    """No bottleneck: the codes are the latents. The reconstruction error is the networks' alone.

    Args:
        dim: d, at least 1.

    Example:
        >>> output = Identity(dim=2)(torch.full((1, 2, 1, 1, 1), 0.3))
        >>> output.indices is None, round(output.codes.max().item(), 1)
        (True, 0.3)
    """

    def quantize(self, z: Tensor) -> tuple[Tensor, None, dict[str, Tensor]]:
        return z, None, {}


@QUANTIZERS.register_module()
class KL(_Continuous):
    """A Gaussian bottleneck: a sample in training, the mean in eval (arXiv:1312.6114; arXiv:2112.10752).

    A linear layer turns the latents of a position into mean and log-variance. At the start the mean is the latent and
    the standard deviation is exp(-2). Loss: ``kl``, the divergence from a standard normal,
    1/2 sum(mean^2 + var - 1 - log var) over a clip, averaged over the batch; its weight is latent diffusion's 1e-6.

    Args:
        dim: d, at least 1.

    Example:
        >>> kl = KL(dim=1)
        >>> round(kl(torch.full((1, 1, 1, 1, 2), 3.0)).losses["kl"].item(), 3)   # 2 * (9 + exp(-4) - 1 + 4) / 2
        12.018
    """

    loss_weights = {"kl": 1e-6}

    def __init__(self, *, dim: int):
        super().__init__(dim=dim)
        self.moments = nn.Linear(dim, 2 * dim)
        nn.init.eye_(self.moments.weight)  # mean = z
        nn.init.zeros_(self.moments.bias)
        self.moments.bias.data[dim:] = -4.0  # log-variance

    def quantize(self, z: Tensor) -> tuple[Tensor, None, dict[str, Tensor]]:
        moments = nn.functional.linear(z, self.moments.weight.float(), self.moments.bias.float())
        mean, log_variance = moments.chunk(2, dim=-1)
        if not self.training:
            return mean, None, {}
        log_variance = log_variance.clamp(-30, 20)  # the bounds of latent diffusion
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2)).mean() / 2
        return mean + torch.exp(log_variance / 2) * torch.randn_like(mean), None, {"kl": kl}

"""Regularisers of a discriminator: LeCAM and R1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.layers import mean_over_processes


def r1_penalty(logits: Tensor, pixels: Tensor) -> Tensor:
    """Zero-centred gradient penalty on real data, before its weight.

    From logits (B, ...) and pixels (B, C, T, H, W) that require grad to the () float32 mean over the batch of the
    squared gradient norm (Mescheder et al., arXiv:1801.04406, eq. 9).
    """
    if not pixels.requires_grad:
        raise ValueError("r1_penalty needs pixels that require grad, got some that do not; call "
                         "pixels.requires_grad_() before the discriminator.")
    gradient, = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


class LeCAM(nn.Module):
    """Penalises distances of logits from the other side's running average (Tseng et al., arXiv:2104.03310, eq. 5).

    ``relu(real - average_fake)^2 + relu(average_real - fake)^2``. The averages are updated first, with ``decay``,
    over the joint batch of all processes. They are buffers, so checkpoints have them.
    ``per_logit``: the mean of each logit's penalty (the paper, Open-MAGVIT2) instead of the penalty of the batch-mean
    logit (O2-MAGVIT2).
    """

    def __init__(self, *, decay: float = 0.999, per_logit: bool = False):
        super().__init__()
        self.decay, self.per_logit = decay, per_logit
        self.register_buffer("average_real", torch.zeros(()))
        self.register_buffer("average_fake", torch.zeros(()))

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits of real pixels and reconstructions -> () float32."""
        real, fake = real_logits.float(), fake_logits.float()
        real_mean, fake_mean = mean_over_processes(real.mean()), mean_over_processes(fake.mean())
        if self.training:
            self.average_real.lerp_(real_mean.detach(), 1 - self.decay)
            self.average_fake.lerp_(fake_mean.detach(), 1 - self.decay)
        if not self.per_logit:
            real, fake = real_mean, fake_mean
        return ((real - self.average_fake).relu().square().mean()
                + (self.average_real - fake).relu().square().mean())

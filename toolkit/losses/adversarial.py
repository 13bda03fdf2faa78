"""Adversarial losses of generator and discriminator.

Each term is a mean over all logits, or over samples with ``per_sample``. The discriminator's loss is the sum of its
real and its fake term, as in O2-MAGVIT2 and StyleGAN. VQGAN's code takes half the hinge sum: use half the weight.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from toolkit.contracts import AdversarialLoss
from toolkit.registry import LOSSES


@LOSSES.register_module()
class NonSaturating(AdversarialLoss):
    """The non-saturating logistic GAN loss (Goodfellow et al., arXiv:1406.2661, sec. 3).

    Args:
        per_sample: Average the logits of each sample first (Open-MAGVIT2).

    Example:
        >>> import torch
        >>> logits = torch.zeros(4, 1)
        >>> round(NonSaturating().discriminator(logits, logits).item(), 4)   # 2 ln 2
        1.3863
    """

    def __init__(self, *, per_sample: bool = False):
        super().__init__()
        self.per_sample = per_sample

    def generator(self, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits -> mean of ``softplus(-fake)``, () float32 >= 0."""
        return F.softplus(-self._logits(fake_logits)).mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits -> mean of ``softplus(-real)`` + mean of ``softplus(fake)``, () float32 >= 0."""
        return F.softplus(-self._logits(real_logits)).mean() + F.softplus(self._logits(fake_logits)).mean()

    def _logits(self, logits: Tensor) -> Tensor:
        """(B, ...) logits -> float32, averaged to (B,) with ``per_sample``."""
        return reduce(logits.float(), "b ... -> b", "mean") if self.per_sample else logits.float()


@LOSSES.register_module()
class Hinge(AdversarialLoss):
    """The hinge GAN loss (Lim and Ye, arXiv:1705.02894).

    Example:
        >>> import torch
        >>> logits = torch.zeros(4, 1)
        >>> Hinge().discriminator(logits, logits).item()
        2.0
    """

    def generator(self, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits -> mean of ``-fake``, () float32."""
        return -fake_logits.float().mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """(B, ...) logits -> mean of ``relu(1 - real)`` + mean of ``relu(1 + fake)``, () float32 >= 0."""
        return F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()

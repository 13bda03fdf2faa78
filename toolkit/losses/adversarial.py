"""The two sides of the GAN's game.

Each term is a mean over all logits (over samples, with ``per_sample``), and a discriminator's loss is
the sum, not the mean, of its real and its fake half (so it starts near 2 ln 2 or 2), as in O2-MAGVIT2
and StyleGAN. VQGAN's code halves its hinge: use half the weight to match it.
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
        per_sample: Judge samples, not patches: the logits of a sample are averaged first (Open-MAGVIT2).

    Example:
        >>> import torch
        >>> undecided = torch.zeros(4, 1)
        >>> round(NonSaturating().discriminator(undecided, undecided).item(), 4)   # 2 ln 2
        1.3863
    """

    def __init__(self, *, per_sample: bool = False):
        super().__init__()
        self.per_sample = per_sample

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Mean of ``softplus(-fake)`` over (B, ...) -> () float32 >= 0."""
        return F.softplus(-self._judged(fake_logits)).mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Means of ``softplus(-real)`` and ``softplus(fake)`` over (B, ...), summed -> () float32 >= 0."""
        return F.softplus(-self._judged(real_logits)).mean() + F.softplus(self._judged(fake_logits)).mean()

    def _judged(self, logits: Tensor) -> Tensor:
        """(B, ...) -> float32, (B,) per sample."""
        return reduce(logits.float(), "b ... -> b", "mean") if self.per_sample else logits.float()


@LOSSES.register_module()
class Hinge(AdversarialLoss):
    """The hinge GAN loss (Lim and Ye, arXiv:1705.02894).

    Example:
        >>> import torch
        >>> undecided = torch.zeros(4, 1)
        >>> Hinge().discriminator(undecided, undecided).item()
        2.0
    """

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Mean of ``-fake`` over (B, ...) -> () float32."""
        return -fake_logits.float().mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Means of ``relu(1 - real)`` and ``relu(1 + fake)`` over (B, ...), summed -> () float32 >= 0."""
        return F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()

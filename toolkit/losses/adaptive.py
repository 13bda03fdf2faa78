"""How much the generator heeds its discriminator, found from the gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.contracts import GeneratorWeight
from toolkit.layers import mean_over_processes
from toolkit.registry import LOSSES


@LOSSES.register_module()
class AdaptiveWeight(GeneratorWeight):
    """VQGAN's adaptive weight (Esser et al., arXiv:2012.09841, eq. 7): both sides pull the decoder equally hard.

    The norm of the reconstruction losses' gradient over that of the adversarial loss, at the decoder's last
    layer. The gradients are those of the joint micro-batch of all processes; with gradient accumulation every
    micro-batch has a factor of its own.

    Args:
        eps: Added to the norm of the adversarial gradient.
        maximum: Of the factor.

    Example:
        >>> layer = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> round(AdaptiveWeight()(layer.square().sum(), 3 * layer.sum(), layer).item(), 4)   # |(2, 4)| / |(3, 3)|
        1.0541
    """

    def __init__(self, *, eps: float = 1e-4, maximum: float = 1e4):
        super().__init__()
        self.eps, self.maximum = eps, maximum

    def forward(self, reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: nn.Parameter) -> Tensor:
        """The factor in [0, maximum] of two () losses that depend on ``last_layer`` -> () float32, detached.

        Raises:
            ValueError: If there is no reconstruction loss to compare with.
        """
        if not reconstruction_loss.requires_grad:
            raise ValueError("AdaptiveWeight needs a loss on the reconstruction, got none with a gradient; give a "
                             "term of objective.losses a weight while the adversarial loss has one.")
        wanted = _gradient_norm(reconstruction_loss, last_layer)
        return (wanted / (_gradient_norm(adversarial_loss, last_layer) + self.eps)).clamp(max=self.maximum)


def _gradient_norm(loss: Tensor, parameter: nn.Parameter) -> Tensor:
    """() float32 norm of the gradient of the mean () loss of all processes."""
    with torch.autocast(parameter.device.type, enabled=False):  # which is for forward passes
        gradient, = torch.autograd.grad(loss, parameter, retain_graph=True)
    return mean_over_processes(gradient.float()).norm()

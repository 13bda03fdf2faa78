"""The weight of the generator's adversarial loss, computed from gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.contracts import GeneratorWeight
from toolkit.layers import mean_over_processes
from toolkit.registry import LOSSES


@LOSSES.register_module()
class AdaptiveWeight(GeneratorWeight):
    """VQGAN's adaptive weight (Esser et al., arXiv:2012.09841, eq. 7).

    |gradient of the reconstruction loss| / (|gradient of the adversarial loss| + eps), both with respect to the
    decoder's last layer, averaged over all processes. With gradient accumulation each micro-batch has its own weight.

    Args:
        eps: Added to the norm of the adversarial gradient.
        maximum: Largest weight.

    Raises:
        ValueError: When called, if the reconstruction loss has no gradient.

    Example:
        >>> layer = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> round(AdaptiveWeight()(layer.square().sum(), 3 * layer.sum(), layer).item(), 4)   # |(2, 4)| / |(3, 3)|
        1.0541
    """

    def __init__(self, *, eps: float = 1e-4, maximum: float = 1e4):
        super().__init__()
        self.eps, self.maximum = eps, maximum

    def forward(self, reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: nn.Parameter) -> Tensor:
        """Two () losses that depend on ``last_layer`` -> () float32 in [0, maximum], detached."""
        if not reconstruction_loss.requires_grad:
            raise ValueError("AdaptiveWeight needs a reconstruction loss with a gradient, got none; give a loss in "
                             "objective.losses a weight above 0 while the adversarial loss is active.")
        reconstruction_norm = _gradient_norm(reconstruction_loss, last_layer)
        adversarial_norm = _gradient_norm(adversarial_loss, last_layer)
        return (reconstruction_norm / (adversarial_norm + self.eps)).clamp(max=self.maximum)


def _gradient_norm(loss: Tensor, parameter: nn.Parameter) -> Tensor:
    """() float32 norm of the gradient of the () loss, averaged over all processes."""
    with torch.autocast(parameter.device.type, enabled=False):  # autocast is for forward passes
        gradient, = torch.autograd.grad(loss, parameter, retain_graph=True)
    return mean_over_processes(gradient.float()).norm()

"""VQGAN's adaptive weight, against gradients worked out by hand on a linear decoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toolkit.losses import AdaptiveWeight

CODES = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
TARGET = torch.randn(2, 3, 3, 5, 5, generator=torch.Generator().manual_seed(2))
SLOPE = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def decoder() -> nn.Conv3d:
    return nn.Conv3d(4, 3, 1, bias=False)


def losses(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error, and minus the mean logit of a linear discriminator."""
    return (pixels.float() - TARGET).square().mean(), -(pixels.float() * SLOPE).sum((1, 2, 3, 4)).mean()


def by_hand(decoder: nn.Conv3d, *, eps: float) -> float:
    """With pixels W c: |2 / n sum (W c - target) c^T| / (|1 / B sum slope c^T| + eps)."""
    matrix = decoder.weight.detach()[:, :, 0, 0, 0]
    difference = torch.einsum("od,bdthw->bothw", matrix, CODES) - TARGET
    pull = 2 / TARGET.numel() * torch.einsum("bothw,bdthw->od", difference, CODES)
    push = torch.einsum("othw,bdthw->od", SLOPE, CODES) / len(CODES)
    return (pull.norm() / (push.norm() + eps)).item()


@pytest.mark.parametrize("eps", [1e-4, 0.5])
def test_factor_is_the_ratio_of_the_gradients_norms(decoder, eps):
    factor = AdaptiveWeight(eps=eps)(*losses(decoder(CODES)), decoder.weight)
    assert factor.item() == pytest.approx(by_hand(decoder, eps=eps), rel=1e-5)
    assert factor.shape == () and factor.dtype == torch.float32 and not factor.requires_grad


def test_eps_bounds_the_weight_without_an_adversarial_gradient_and_maximum_caps_it():
    layer = nn.Parameter(torch.zeros(2))
    pull, none = (layer * torch.tensor([0.3, 0.4])).sum(), 0 * layer.sum()
    assert AdaptiveWeight()(pull, none, layer).item() == pytest.approx(0.5 / 1e-4, rel=1e-5)
    assert AdaptiveWeight()(10 * pull, none, layer).item() == 1e4
    assert AdaptiveWeight(maximum=3.0)(pull, none, layer).item() == 3
    assert AdaptiveWeight()(none, pull, layer).item() == 0


def test_autocast_changes_the_rounding_only(decoder):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pixels = decoder(CODES)
        assert pixels.dtype == torch.bfloat16
        factor = AdaptiveWeight()(*losses(pixels), decoder.weight)
    assert factor.dtype == torch.float32 and factor.item() == pytest.approx(by_hand(decoder, eps=1e-4), rel=0.02)


def test_a_layer_under_activation_checkpointing_has_the_same_factor(decoder):
    reconstruction, adversarial = losses(checkpoint(decoder, CODES, use_reentrant=False))
    factor = AdaptiveWeight()(reconstruction, adversarial, decoder.weight)
    assert factor.item() == pytest.approx(by_hand(decoder, eps=1e-4), rel=1e-5)
    (reconstruction + factor * adversarial).backward()


def test_reconstruction_loss_without_gradient_is_refused(decoder):
    with pytest.raises(ValueError, match="AdaptiveWeight needs a reconstruction loss with a gradient, got none"):
        AdaptiveWeight()(torch.zeros(()), losses(decoder(CODES))[1], decoder.weight)

"""Pixel distances, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from toolkit.contracts import TokenizerOutput
from toolkit.losses import L1, L2
from toolkit.registry import LOSSES

SHAPE = (2, 3, 2, 4, 5)


def output_of(reconstruction: torch.Tensor) -> TokenizerOutput:
    return TokenizerOutput(reconstruction, reconstruction, reconstruction, None)


@pytest.mark.parametrize(("name", "reference"), [("L1", F.l1_loss), ("L2", F.mse_loss)])
def test_value_and_gradient_match_torch(name, reference):
    reconstruction, target = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    loss = LOSSES.build(dict(type=name))(output_of(reconstruction), target)
    torch.testing.assert_close(loss, reference(reconstruction, target))
    (ours,) = torch.autograd.grad(loss, reconstruction)
    (theirs,) = torch.autograd.grad(reference(reconstruction, target), reconstruction)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("loss", [L1(), L2()])
def test_target_gets_no_gradient(loss):
    reconstruction, target = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE, requires_grad=True)
    loss(output_of(reconstruction), target).backward()
    assert target.grad is None and reconstruction.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [L1(), L2()])
def test_sizes_that_would_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match=type(loss).__name__):
        loss(output_of(torch.zeros(SHAPE)), torch.zeros(2, 3, 1, 4, 5))

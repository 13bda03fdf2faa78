"""Values are the codes'; gradients are the identity or a rotation, against the papers' matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from toolkit.quantizers import straight_through


@pytest.mark.parametrize("rotation_trick", [False, True])
def test_value_is_exactly_the_code(rotation_trick):
    z, codes = 1e3 * torch.randn(2, 50, 8), torch.randn(2, 50, 8)
    assert torch.equal(straight_through(z, codes, rotation_trick=rotation_trick), codes)


def test_straight_through_gradient_is_the_upstream_one():
    z, upstream = torch.randn(7, 3, requires_grad=True), torch.randn(7, 3)
    straight_through(z, torch.randn(7, 3)).backward(upstream)
    assert torch.equal(z.grad, upstream)


def test_rotated_gradient_is_that_of_the_papers_matrix():
    z, codes = torch.randn(20, 5, dtype=torch.float64, requires_grad=True), torch.randn(20, 5, dtype=torch.float64)
    upstream = torch.randn(20, 5, dtype=torch.float64)
    straight_through(z, codes, rotation_trick=True).backward(upstream)
    for gradient, x, q, g in zip(z.grad, z.detach(), codes, upstream, strict=True):
        a, b = F.normalize(x, dim=0), F.normalize(q, dim=0)
        r = F.normalize(a + b, dim=0)
        rotation = torch.eye(5, dtype=torch.float64) - 2 * torch.outer(r, r) + 2 * torch.outer(b, a)
        stretched = q.norm() / x.norm() * rotation
        torch.testing.assert_close(stretched @ x, q)  # it does take the latent to the code
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(5, dtype=torch.float64))
        torch.testing.assert_close(gradient, stretched.T @ g)


@pytest.mark.parametrize("z", [torch.zeros(1, 4), -torch.ones(1, 4), torch.ones(1, 4)])
def test_latents_of_zero_or_opposite_to_their_code_have_finite_gradients(z):
    z = z.clone().requires_grad_()
    straight_through(z, torch.ones(1, 4), rotation_trick=True).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_code_gets_no_gradient():
    codes = torch.randn(3, 2, requires_grad=True)
    assert torch.autograd.grad(straight_through(torch.randn(3, 2, requires_grad=True), codes).sum(), codes,
                               allow_unused=True) == (None,)

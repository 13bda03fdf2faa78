"""Values are the codes'; gradients are the identity or a rotation, against the papers' matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from toolkit.quantizers import straight_through, unit_length


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


@pytest.mark.parametrize("length", [1e4, 1.0, 3e-3])
def test_unit_length_has_the_gradient_of_the_quotient(length):
    z, upstream = F.normalize(torch.randn(20, 5, dtype=torch.float64), dim=1) * length, torch.randn(20, 5)
    z.requires_grad_()
    unit_length(z).backward(upstream.double())
    for gradient, x, g in zip(z.grad, z.detach(), upstream.double(), strict=True):
        u = x / length
        torch.testing.assert_close(gradient, (torch.eye(5) - torch.outer(u, u)).double() @ g / length)


def test_unit_length_of_tiny_latents_keeps_its_value_and_bounds_the_gradient():
    z = torch.tensor([[0.0, 0.0], [3e-5, 4e-5], [-3e-7, 0.0]], requires_grad=True)
    unit, upstream = unit_length(z), torch.tensor([[1.0, -2.0]] * 3)
    torch.testing.assert_close(unit, torch.tensor([[0.0, 0.0], [0.6, 0.8], [-0.3, 0.0]]))  # by 1e-6 at least
    unit.backward(upstream)
    assert torch.equal(z.grad, 512 * upstream)


def test_rotation_stretches_gradients_of_tiny_latents_by_at_most_512():
    z = torch.tensor([[3e-6, 4e-6], [3e-3, 4e-3]], requires_grad=True)
    straight_through(z, torch.tensor([[0.6, 0.8]] * 2), rotation_trick=True).backward(torch.tensor([[0.6, 0.8]] * 2))
    torch.testing.assert_close(z.grad.norm(dim=1), torch.tensor([512.0, 200.0]))  # 1 / 5e-6 and 1 / 5e-3

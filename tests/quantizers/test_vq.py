"""Vector quantization against distances written out, and its gradients by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from toolkit.quantizers import VQ, vq


@pytest.mark.parametrize("chunk", [1, 64, 2**24])
def test_nearest_code_is_that_of_the_full_distances_whatever_the_chunk(monkeypatch, chunk):
    monkeypatch.setattr(vq, "_CHUNK", chunk)
    z, codebook = torch.randn(50, 6), torch.randn(17, 6)
    assert torch.equal(vq.nearest_codes(z, codebook), torch.cdist(z, codebook).argmin(1))


def test_of_equally_near_codes_the_first_is_taken():
    assert vq.nearest_codes(torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist() == [0]


def test_normalised_lookup_is_by_cosine_and_codes_have_unit_length():
    quantizer = VQ(codebook_size=32, dim=4, normalize=True).eval()
    z = 10 * torch.randn(2, 4, 1, 3, 3)
    output = quantizer(z)
    flat = z.permute(0, 2, 3, 4, 1).reshape(-1, 1, 4)
    expected = F.cosine_similarity(flat, quantizer.codebook[None], dim=-1).argmax(1)
    assert torch.equal(output.indices.flatten(), expected)
    torch.testing.assert_close(output.codes.norm(dim=1), torch.ones(2, 1, 3, 3))


@pytest.mark.parametrize("normalize", [False, True])
def test_codes_of_indices_are_the_codes(normalize):
    quantizer = VQ(codebook_size=32, dim=4, normalize=normalize).eval()
    output = quantizer(torch.randn(2, 4, 2, 3, 3))
    assert torch.equal(quantizer.codes_from_indices(output.indices), output.codes) and not output.losses


def test_losses_and_gradients_are_the_papers():
    quantizer = VQ(codebook_size=2, dim=1)
    quantizer.codebook.data.copy_(torch.tensor([[0.0], [1.0]]))
    z = torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 1, 2).requires_grad_()  # codes 0 and 1
    output = quantizer(z)
    expected = torch.tensor((0.2**2 + 0.4**2) / 2)
    torch.testing.assert_close(output.losses, {"codebook": expected, "commitment": expected})
    assert output.codes.flatten().tolist() == [0.0, 1.0]
    toward_codebook, toward_z = torch.autograd.grad(output.losses["codebook"], [quantizer.codebook, z],
                                                    allow_unused=True, retain_graph=True)
    torch.testing.assert_close(toward_codebook.flatten(), torch.tensor([-0.2, 0.4]))  # (code - z), 2 / 2 positions
    assert toward_z is None
    toward_codebook, toward_z = torch.autograd.grad(output.losses["commitment"], [quantizer.codebook, z],
                                                    allow_unused=True, retain_graph=True)
    torch.testing.assert_close(toward_z.flatten(), torch.tensor([0.2, -0.4]))
    assert toward_codebook is None
    straight, = torch.autograd.grad((output.codes * torch.tensor([3.0, 5.0])).sum(), z)
    assert straight.flatten().tolist() == [3.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_latents_give_the_indices_of_their_own_values(dtype):
    quantizer = VQ(codebook_size=64, dim=4).eval()
    z = torch.randn(1, 4, 1, 4, 4).to(dtype)
    output = quantizer(z)
    assert output.codes.dtype == dtype and torch.equal(output.indices, quantizer(z.float()).indices)


@pytest.mark.parametrize("arguments", [dict(codebook_size=1, dim=2), dict(codebook_size=2, dim=0)])
def test_empty_codebook_is_refused(arguments):
    with pytest.raises(ValueError, match="codebook_size from 2 and dim from 1"):
        VQ(**arguments)

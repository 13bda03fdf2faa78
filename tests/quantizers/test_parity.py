"""Against the independent library vector-quantize-pytorch: same weights, same latents, several steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import vector_quantize_pytorch as reference
from torch import nn

from toolkit.contracts import Quantizer
from toolkit.quantizers import BSQ, FSQ, LFQ, VQ, Residual


def as_grid(z: torch.Tensor) -> torch.Tensor:
    """(B, N, d) -> (B, d, 1, 1, N)."""
    return z.transpose(1, 2)[:, :, None, None]


def flat(quantizer: Quantizer, z: torch.Tensor) -> SimpleNamespace:
    """Our output as the library lays it out: codes (B, N, d), indices (B, N, G)."""
    output = quantizer(as_grid(z))
    return SimpleNamespace(codes=output.codes[:, :, 0, 0].transpose(1, 2), indices=output.indices[:, 0, 0],
                           losses=output.losses)


def batches(dim: int, num: int = 6) -> list[torch.Tensor]:
    return [torch.randn(3, 50, dim) for _ in range(num)]


def copy_codebook(ours: VQ, theirs: reference.VectorQuantize) -> None:
    """The library's codebook and averages into ours."""
    book = theirs._codebook
    ours.codebook.data.copy_(book.embed[0])
    if ours.update == "ema":
        ours.code_sum.copy_(book.embed_avg[0])
        ours.code_count.copy_(book.cluster_size[0])


def assert_equal_outputs(ours: SimpleNamespace, codes: torch.Tensor, indices: torch.Tensor) -> None:
    assert torch.equal(ours.indices, indices.reshape(ours.indices.shape).long())
    torch.testing.assert_close(ours.codes, codes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bits", "num_codebooks", "scale"), [(5, 1, 1.0), (4, 3, 1.0), (6, 1, 0.25)])
def test_lookup_free(bits, num_codebooks, scale):
    theirs = reference.LFQ(codebook_size=2**bits, num_codebooks=num_codebooks, codebook_scale=scale,
                           commitment_loss_weight=1.0, keep_num_codebooks_dim=True)
    ours = LFQ(bits=bits, num_codebooks=num_codebooks, scale=scale, inv_temperature=10.0)
    layers = [nn.Linear(8, bits * num_codebooks) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.05) for layer in layers]
    for x in batches(8):
        (codes, indices, _), breakdown = theirs(layers[1](x), inv_temperature=10.0, return_loss_breakdown=True)
        output = flat(ours, layers[0](x))
        assert_equal_outputs(output, codes, indices)
        torch.testing.assert_close(output.losses["commitment"], breakdown.commitment)
        # Theirs clamps probabilities below 1e-5 within the logarithm, ours adds 1e-5 or nothing.
        for name, entropy in (("per_sample_entropy", breakdown.per_sample_entropy),
                              ("codebook_entropy", breakdown.batch_entropy)):
            torch.testing.assert_close(output.losses[name], entropy, rtol=2e-3, atol=2e-3)
        for optimizer, out, commitment in zip(optimizers, (output.codes, codes),
                                              (output.losses["commitment"], breakdown.commitment), strict=True):
            optimizer.zero_grad()
            ((out - 0.3).square().mean() + 0.25 * commitment).backward()
            optimizer.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight)


def test_binary_spherical():
    theirs, ours = reference.LFQ(codebook_size=2**6, spherical=True), BSQ(bits=6)
    for z in batches(6):
        codes, indices, _ = theirs(z)
        assert_equal_outputs(flat(ours, z), codes, indices)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [7, 4], [8, 8, 8, 6, 5], [3, 3, 3]])
def test_finite_scalar(levels):
    theirs, ours = reference.FSQ(levels), FSQ(levels=levels)
    layers = [nn.Linear(8, len(levels)) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [torch.optim.SGD(layer.parameters(), lr=1.0) for layer in layers]
    for x in batches(8):
        codes, indices = theirs(layers[1](x))
        output = flat(ours, layers[0](x))
        assert_equal_outputs(output, codes, indices)
        for optimizer, out in zip(optimizers, (output.codes, codes), strict=True):
            optimizer.zero_grad()
            (out - 0.3).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight)
    every = torch.arange(ours.codebook_size)
    assert torch.equal(ours.lookup(every.reshape(1, -1, 1))[0], theirs.indices_to_codes(every))


@pytest.mark.parametrize("rotation_trick", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_vector_quantization_by_running_averages(normalize, rotation_trick):
    theirs = reference.VectorQuantize(dim=6, codebook_size=16, decay=0.8, use_cosine_sim=normalize,
                                      commitment_weight=1.0, rotation_trick=rotation_trick)
    ours = VQ(codebook_size=16, dim=6, update="ema", decay=0.8, normalize=normalize, rotation_trick=rotation_trick)
    copy_codebook(ours, theirs)
    for z in batches(6):
        latents = [z.clone().requires_grad_() for _ in range(2)]
        codes, indices, commitment = theirs(latents[1])
        output = flat(ours, latents[0])
        assert_equal_outputs(output, codes, indices)
        torch.testing.assert_close(output.losses["commitment"], commitment.squeeze())
        torch.testing.assert_close(ours.codebook, theirs._codebook.embed[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.code_count, theirs._codebook.cluster_size[0])
        for out, loss in ((output.codes, output.losses["commitment"]), (codes, commitment.squeeze())):
            ((out - 0.3).square().sum() + loss).backward()
        torch.testing.assert_close(latents[0].grad, latents[1].grad, rtol=1e-4, atol=1e-5)


def test_vector_quantization_by_gradients():
    theirs = reference.VectorQuantize(dim=4, codebook_size=8, learnable_codebook=True, ema_update=False,
                                      commitment_weight=1.0, rotation_trick=False)
    ours = VQ(codebook_size=8, dim=4)
    copy_codebook(ours, theirs)
    for z in batches(4):
        codes, indices, loss = theirs(z)
        output = flat(ours, z)
        assert_equal_outputs(output, codes, indices)
        # Theirs is one distance whose both sides learn, as much as ours are together.
        torch.testing.assert_close(output.losses["commitment"], loss.squeeze())
        (output.losses["codebook"]).backward()
        loss.backward()
        step = theirs._codebook.embed.grad[0]
        torch.testing.assert_close(ours.codebook.grad, step, rtol=1e-4, atol=1e-6)
        for book in (ours.codebook, theirs._codebook.embed):
            book.data.sub_(0.5 * book.grad)
            book.grad = None


def test_dead_codes_are_those_of_the_library():
    theirs = reference.VectorQuantize(dim=2, codebook_size=32, decay=0.5, threshold_ema_dead_code=0.4)
    ours = VQ(codebook_size=32, dim=2, update="ema", decay=0.5, revive_below=0.4 / (150 / 32))
    copy_codebook(ours, theirs)
    ours.num_batches.fill_(1)  # or else counts would start from the first batch
    z = torch.randn(3, 50, 2)
    for _ in range(2):
        theirs(z)
        flat(ours, z)
    # The same codes died at the second batch; each library draws its own replacements.
    alive = theirs._codebook.cluster_size[0] != 0.4
    assert not alive.all() and torch.equal(ours.code_count[alive], theirs._codebook.cluster_size[0][alive])
    assert (ours.code_count[~alive] == 150 / 32).all()
    torch.testing.assert_close(ours.codebook[alive], theirs._codebook.embed[0][alive])


@pytest.mark.parametrize("normalize", [False, True])
def test_residual_of_vectors(normalize):
    theirs = reference.ResidualVQ(dim=4, num_quantizers=3, codebook_size=16, decay=0.8, use_cosine_sim=normalize,
                                  commitment_weight=1.0)
    children = [VQ(codebook_size=16, dim=4, update="ema", decay=0.8, normalize=normalize) for _ in range(3)]
    for child, layer in zip(children, theirs.layers, strict=True):
        copy_codebook(child, layer)
    ours = Residual(quantizers=children)
    for z in batches(4):
        codes, indices, losses = theirs(z)
        output = flat(ours, z)
        assert_equal_outputs(output, codes, indices)
        torch.testing.assert_close(output.losses["commitment"], losses.mean())
        for child, layer in zip(children, theirs.layers, strict=True):
            torch.testing.assert_close(child.codebook, layer._codebook.embed[0], rtol=1e-4, atol=1e-6)


def test_residual_of_signs():
    theirs = reference.ResidualLFQ(dim=5, codebook_size=2**5, num_quantizers=3, quantize_dropout=False)
    ours = Residual(quantizers=[LFQ(bits=5, scale=2.0**-level) for level in range(3)])
    for z in batches(5):
        codes, indices, _ = theirs(z)
        assert_equal_outputs(flat(ours, z), codes, indices)


def test_residual_decodes_its_first_columns_as_the_library():
    theirs = reference.ResidualVQ(dim=4, num_quantizers=3, codebook_size=16, quantize_dropout=True).eval()
    children = [VQ(codebook_size=16, dim=4, update="ema") for _ in range(3)]
    for child, layer in zip(children, theirs.layers, strict=True):
        copy_codebook(child, layer)
    ours, indices = Residual(quantizers=children).eval(), torch.randint(0, 16, (2, 7, 3))
    for num in (1, 2, 3):
        expected = theirs.get_output_from_indices(indices[..., :num])
        actual = ours.codes_from_indices(indices[:, None, None, :, :num])
        torch.testing.assert_close(actual[:, :, 0, 0].transpose(1, 2), expected)

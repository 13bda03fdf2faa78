"""Vector quantization against distances written out, and its gradients by hand."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peak_memory import peak_of

from toolkit.quantizers import VQ


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


def latents_of(z: torch.Tensor) -> torch.Tensor:
    """(N, d) -> (1, d, 1, 1, N)."""
    return z.T.reshape(1, -1, 1, 1, len(z))


@pytest.mark.parametrize("normalize", [False, True])
def test_running_averages_are_the_papers_over_several_batches(normalize):
    quantizer = VQ(codebook_size=6, dim=3, update="ema", decay=0.9, normalize=normalize)
    codebook = torch.randn(6, 3)
    codebook = F.normalize(codebook, dim=1) if normalize else codebook
    quantizer.codebook.copy_(codebook)
    quantizer.code_sum.copy_(codebook)
    codes, count, total = codebook.double().numpy(), np.ones(6), codebook.double().numpy().copy()
    for _ in range(5):
        z = torch.randn(40, 3)
        output = quantizer(latents_of(z))
        x = (F.normalize(z, dim=1) if normalize else z).double().numpy()
        nearest = ((x[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
        assert output.indices.flatten().tolist() == nearest.tolist()
        np.testing.assert_allclose(output.codes[0, :, 0, 0].T.numpy(), codes[nearest], rtol=1e-4, atol=1e-5)
        hot = np.eye(6)[nearest]
        count = 0.9 * count + 0.1 * hot.sum(0)
        total = 0.9 * total + 0.1 * hot.T @ x
        smoothed = (count + 1e-5) / (count.sum() + 6e-5) * count.sum()
        codes = total / smoothed[:, None]
        codes = codes / np.linalg.norm(codes, axis=1, keepdims=True) if normalize else codes
        np.testing.assert_allclose(quantizer.codebook.numpy(), codes, rtol=1e-4, atol=1e-5)
    assert set(output.losses) == set(quantizer.loss_weights) == {"commitment"}
    assert not list(quantizer.parameters())


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_codebook_starts_from_the_clusters_of_the_first_training_batch(update):
    centres = torch.tensor([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0], [9.0, 9.0]])
    z = centres.repeat_interleave(10, 0) + 0.01 * torch.randn(40, 2)
    # Of forty points, four at random may miss a cluster: with as many codes as points none does.
    quantizer = VQ(codebook_size=40, dim=2, update=update, kmeans_iters=10)
    quantizer.eval()(latents_of(z))
    assert quantizer.num_batches == 0  # evaluation starts nothing
    output = quantizer.train()(latents_of(z))
    assert output.losses["commitment"] < 1e-3
    before = quantizer.codebook.detach().clone()
    quantizer(latents_of(z + 100))
    assert quantizer.num_batches == 2
    if update == "gradient":
        assert torch.equal(quantizer.codebook, before)  # started once


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_batch_that_is_not_finite_is_no_first_batch_and_changes_nothing(update):
    points = torch.tensor([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0], [9.0, 9.0]])
    quantizer = VQ(codebook_size=4, dim=2, update=update, kmeans_iters=2, revive_below=0.5)
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    for batch in (torch.full((4, 2), torch.nan), torch.full((4, 2), torch.inf), points.log()):
        quantizer(latents_of(batch))
    torch.testing.assert_close(quantizer.state_dict(), before, rtol=0, atol=0)
    assert quantizer(latents_of(points)).losses["commitment"] < 1e-8  # as many clusters as points


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codes_become_latents_of_the_batch(update):
    quantizer = VQ(codebook_size=4, dim=2, update=update, decay=0.5, revive_below=0.3)
    quantizer.codebook.data.copy_(torch.tensor([[0.0, 0.0], [100.0, 0], [0, 100.0], [100.0, 100.0]]))
    z = torch.randn(64, 2)
    uses = []
    for _ in range(12):
        uses.append(quantizer(latents_of(z)).indices.unique().numel())
    assert uses[0] == 1 and uses[-1] == 4
    if update == "gradient":  # nothing else moves it
        revived = quantizer.codebook[1:].detach()
        assert all(any(torch.equal(code, latent) for latent in z) for code in revived)


def test_without_revival_dead_codes_stay():
    quantizer = VQ(codebook_size=2, dim=2, update="ema", decay=0.5)
    for state in (quantizer.codebook, quantizer.code_sum):
        state.copy_(torch.tensor([[0.0, 0.0], [100.0, 100.0]]))
    for _ in range(10):
        output = quantizer(latents_of(torch.randn(16, 2)))
    assert output.indices.unique().tolist() == [0]


@pytest.mark.parametrize("arguments", [dict(update="ema"), dict(update="ema", kmeans_iters=3, revive_below=0.5)])
def test_frozen_codebook_does_not_change_in_train_mode(arguments):
    quantizer = VQ(codebook_size=8, dim=2, **arguments)
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer.frozen = True
    output = quantizer(torch.randn(1, 2, 1, 5, 5, requires_grad=True))
    assert output.losses and output.codes.requires_grad
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_start_and_revival_depend_on_no_random_stream():
    def train() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        quantizer = VQ(codebook_size=16, dim=2, update="ema", kmeans_iters=2, revive_below=0.9, decay=0.5)
        for step in range(4):
            z = torch.randn(30, 2, generator=torch.Generator().manual_seed(step))
            torch.randn(int(torch.randint(1, 9, ())))
            quantizer(latents_of(z))
        return quantizer.state_dict()

    torch.testing.assert_close(train(), train(), rtol=0, atol=0)


MEMORY = """
import torch
from toolkit.quantizers import VQ

torch.set_num_threads(1)
quantizer = VQ(codebook_size=2**18, dim=256).eval()
with torch.no_grad():
    output = quantizer(torch.randn(1, 256, 5, 32, 32))
    quantizer.codes_from_indices(output.indices)
"""


@pytest.mark.slow
def test_lookup_of_2_to_the_18_codes_of_256_channels_fits_in_2_gib():
    assert peak_of(code=MEMORY, env=dict(os.environ))[0] < 2 * 1024


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(codebook_size=1), "codebook_size >= 2 and dim >= 1, got 1 and 2"), (dict(dim=0), "dim >= 1, got 4 and 0"),
    (dict(update="sgd"), "update .* got 'sgd'"), (dict(decay=1.0), "decay .* got 1.0, 0.0 and 0"),
    (dict(kmeans_iters=-1), "kmeans_iters >= 0, got 0.99, 0.0 and -1"),
    (dict(revive_below=1.5), "revive_below .* got 0.99, 1.5 and 0")])
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"VQ needs .*{message}"):
        VQ(**dict(codebook_size=4, dim=2) | arguments)

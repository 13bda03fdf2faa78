"""Vector quantization and what learned codebooks need, against their definitions."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peak_memory import peak_of
from quantizers.formulas import as_latents, as_rows

from toolkit.quantizers import VQ, nearest_codes, vq
from toolkit.quantizers.vq import count_and_sum, kmeans, random_rows


@pytest.mark.parametrize("chunk", [1, 64, 2**24])
def test_nearest_code_is_that_of_the_full_distances_whatever_the_chunk(monkeypatch, chunk):
    monkeypatch.setattr(vq, "CHUNK", chunk)
    z, codes = torch.randn(50, 6), torch.randn(17, 6)
    assert torch.equal(nearest_codes(z, codes), torch.cdist(z, codes).argmin(1))


def test_of_equally_near_codes_the_first_is_chosen():
    assert nearest_codes(torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist() == [0]


def test_counts_and_sums_are_those_of_a_one_hot_matrix():
    z, indices = torch.randn(40, 3), torch.randint(0, 7, (40,))
    one_hot = F.one_hot(indices, 9).float()
    counts, sums = count_and_sum(z, indices, 9)
    torch.testing.assert_close(counts, one_hot.sum(0))
    torch.testing.assert_close(sums, one_hot.T @ z)


def test_random_rows_are_drawn_without_replacement_by_the_seed():
    z = torch.arange(100.0).unsqueeze(1)
    first = random_rows(z, 30, seed=1)
    torch.randn(5)  # the global stream does not matter
    assert torch.equal(first, random_rows(z, 30, seed=1)) and not torch.equal(first, random_rows(z, 30, seed=2))
    assert len(first.unique()) == 30 and len(random_rows(z, 500, seed=0)) == 100


def lloyd(z: np.ndarray, means: np.ndarray, num_iters: int, normalize: bool) -> np.ndarray:
    """The algorithm in float64, cluster by cluster."""
    for _ in range(num_iters):
        nearest = ((z[:, None] - means[None]) ** 2).sum(-1).argmin(1)
        for k in set(nearest):
            mean = z[nearest == k].mean(0)
            means[k] = mean / np.linalg.norm(mean) if normalize else mean
    return means


@pytest.mark.parametrize("normalize", [False, True])
def test_kmeans_is_lloyds_algorithm(normalize):
    z = torch.randn(200, 4)
    z = F.normalize(z, dim=1) if normalize else z
    actual = kmeans(z, 12, num_iters=6, normalize=normalize, seed=3)
    start = random_rows(z, 12, seed=3).double().numpy()
    expected = lloyd(z.double().numpy(), start, 6, normalize)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_fewer_vectors_than_clusters_are_the_means():
    z = torch.randn(5, 3)
    means = kmeans(z, 8, num_iters=4)
    assert means.shape == (5, 3)
    torch.testing.assert_close(means[nearest_codes(z, means)], z)


def test_normalised_lookup_is_by_cosine_and_codes_have_unit_length():
    quantizer = VQ(codebook_size=32, dim=4, normalize=True).eval()
    z = 10 * torch.randn(2, 4, 1, 3, 3)
    output = quantizer(z)
    expected = F.cosine_similarity(as_rows(z)[:, None], quantizer.codebook[None], dim=-1).argmax(1)
    assert torch.equal(output.indices.flatten(), expected)
    torch.testing.assert_close(output.codes.norm(dim=1), torch.ones(2, 1, 3, 3))


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
        output = quantizer(as_latents(z))
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
    quantizer.eval()(as_latents(z))
    assert quantizer.num_batches == 0  # evaluation starts nothing
    output = quantizer.train()(as_latents(z))
    assert output.losses["commitment"] < 1e-3
    before = quantizer.codebook.detach().clone()
    quantizer(as_latents(z + 100))
    assert quantizer.num_batches == 2
    if update == "gradient":
        assert torch.equal(quantizer.codebook, before)  # started once


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_batch_that_is_not_finite_is_no_first_batch_and_changes_nothing(update):
    points = torch.tensor([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0], [9.0, 9.0]])
    quantizer = VQ(codebook_size=4, dim=2, update=update, kmeans_iters=2, revive_below=0.5)
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    for batch in (torch.full((4, 2), torch.nan), torch.full((4, 2), torch.inf), points.log()):
        quantizer(as_latents(batch))
    torch.testing.assert_close(quantizer.state_dict(), before, rtol=0, atol=0)
    assert quantizer(as_latents(points)).losses["commitment"] < 1e-8  # as many clusters as points


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codes_become_latents_of_the_batch(update):
    quantizer = VQ(codebook_size=4, dim=2, update=update, decay=0.5, revive_below=0.3)
    quantizer.codebook.data.copy_(torch.tensor([[0.0, 0.0], [100.0, 0], [0, 100.0], [100.0, 100.0]]))
    z = torch.randn(64, 2)
    uses = []
    for _ in range(12):
        uses.append(quantizer(as_latents(z)).indices.unique().numel())
    assert uses[0] == 1 and uses[-1] == 4
    if update == "gradient":  # nothing else moves it
        revived = quantizer.codebook[1:].detach()
        assert all(any(torch.equal(code, latent) for latent in z) for code in revived)


def test_without_revival_dead_codes_stay():
    quantizer = VQ(codebook_size=2, dim=2, update="ema", decay=0.5)
    for state in (quantizer.codebook, quantizer.code_sum):
        state.copy_(torch.tensor([[0.0, 0.0], [100.0, 100.0]]))
    for _ in range(10):
        output = quantizer(as_latents(torch.randn(16, 2)))
    assert output.indices.unique().tolist() == [0]


def test_frozen_codebook_has_losses_and_gradients_in_train_mode():
    quantizer = VQ(codebook_size=8, dim=2, update="ema", kmeans_iters=3, revive_below=0.5)
    quantizer.frozen = True
    output = quantizer(torch.randn(1, 2, 1, 5, 5, requires_grad=True))
    assert output.losses and output.codes.requires_grad


def test_start_and_revival_depend_on_no_random_stream():
    def train() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        quantizer = VQ(codebook_size=16, dim=2, update="ema", kmeans_iters=2, revive_below=0.9, decay=0.5)
        for step in range(4):
            z = torch.randn(30, 2, generator=torch.Generator().manual_seed(step))
            torch.randn(int(torch.randint(1, 9, ())))
            quantizer(as_latents(z))
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

"""The factorised entropies against the softmax over all codes, and over processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import peak_of
from quantizers.formulas import as_latents, sign_codes, softmax_entropies
from torch import Tensor

from toolkit.quantizers import LFQ
from toolkit.quantizers.entropy import binary_entropies


def full_softmax(latents: Tensor, inv_temperature: float) -> tuple[Tensor, Tensor]:
    return softmax_entropies(latents, sign_codes(latents.shape[1]), inv_temperature)


def values_and_gradients(function, latents: Tensor, inv_temperature: float) -> list[Tensor]:
    latents = latents.clone().requires_grad_()
    entropies = function(latents, inv_temperature)
    return [*entropies, *(torch.autograd.grad(entropy, latents, retain_graph=True)[0] for entropy in entropies)]


def assert_equals_full_softmax(latents: Tensor, inv_temperature: float) -> None:
    actual, expected = (values_and_gradients(function, latents, inv_temperature)
                        for function in (binary_entropies, full_softmax))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 7, 8, 11, 14])
@pytest.mark.parametrize("inv_temperature", [0.5, 5.0, 100.0])
def test_entropies_and_gradients_equal_the_full_softmax(bits, inv_temperature):
    latents = torch.randn(12, bits, dtype=torch.float64)
    latents[0] = 0.0  # undecided: the derivative of |z| must not leak in
    latents[1, ::2] = 0.0
    latents[2] *= 1e3  # sure beyond any exponential
    latents[3:6] *= 1 / inv_temperature  # where the assignment is really soft
    assert_equals_full_softmax(latents, inv_temperature)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=6),
       inv_temperature=st.sampled_from([0.1, 1.0, 25.0]))
def test_entropies_of_any_latents_equal_the_full_softmax(rows, inv_temperature):
    assert_equals_full_softmax(torch.tensor(rows, dtype=torch.float64), inv_temperature)


def test_values_that_follow_from_the_definition():
    undecided = torch.zeros(5, 6, dtype=torch.float64)
    per_sample, codebook = binary_entropies(undecided, 100.0, eps=0.0)
    assert per_sample.item() == codebook.item() == pytest.approx(6 * torch.tensor(2.0).log().item(), rel=1e-6)
    per_sample, codebook = binary_entropies(sign_codes(3), 100.0)  # every code once, each sure
    assert per_sample.item() == pytest.approx(0, abs=1e-12)
    assert codebook.item() == pytest.approx(-torch.tensor(0.125 + 1e-5, dtype=torch.float64).log().item(), rel=1e-12)


def test_huge_latents_give_finite_values_and_gradients():
    for tensor in values_and_gradients(binary_entropies, torch.tensor([[1e30, -1e30, 0.0], [3e4, -1e-20, 1.0]]), 100.0):
        assert torch.isfinite(tensor).all()


def train_share(rank: int, folder: str) -> None:
    """One process with half of the batch: its losses, and its gradient averaged as DDP averages it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    weight, batch = joined_batch()
    losses = entropies_of(weight, batch.chunk(2)[rank])
    gradient, = torch.autograd.grad(sum(losses), weight)
    dist.all_reduce(gradient)
    result = {"losses": [loss.item() for loss in losses], "gradient": (gradient / 2).tolist()}
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def joined_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_(),
            torch.randn(8, 5, generator=generator, dtype=torch.float64))


def entropies_of(weight: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    return binary_entropies((batch @ weight).tanh(), 0.7)


@pytest.mark.slow
def test_two_processes_see_the_entropy_of_the_joined_batch_and_its_gradient(tmp_path):
    mp.spawn(train_share, args=(str(tmp_path),), nprocs=2)
    weight, batch = joined_batch()
    per_sample, codebook = full_softmax((batch @ weight).tanh(), 0.7)
    expected, = torch.autograd.grad(per_sample + codebook, weight)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for result in results:
        assert result["losses"][1] == pytest.approx(codebook.item(), rel=1e-12)
        torch.testing.assert_close(torch.tensor(result["gradient"], dtype=torch.float64), expected)
    # A share alone would see another distribution: the two halves' own entropies differ from the joined one.
    alone = [full_softmax((half @ weight).tanh(), 0.7)[1].item() for half in batch.chunk(2)]
    assert all(abs(value - codebook.item()) > 1e-3 for value in alone)
    mean = sum(result["losses"][0] for result in results) / 2
    assert mean == pytest.approx(per_sample.item(), rel=1e-12)


MEMORY = """
import torch
from peak_memory import peak_mib
from toolkit.quantizers import LFQ

def step(lfq, latents):
    sum(lfq(latents).losses.values()).backward()

torch.set_num_threads(1)
step(LFQ(bits=4), torch.randn(1, 4, 1, 2, 2, requires_grad=True))  # what any first step loads
before = peak_mib()
step(LFQ(bits=18), torch.randn(1, 18, 5, 16, 16, requires_grad=True))
print(peak_mib() - before)
"""


def test_2_to_the_18_codes_of_1280_positions_stay_under_300_mb():
    _, added = peak_of(code=MEMORY, env=dict(os.environ))
    assert float(added) < 300  # the full softmax has 1280 * 2^18 entries: 1,280 MiB each time it is stored


def test_18_bits_equal_the_full_softmax():
    latents = 0.02 * torch.randn(4, 18)
    per_sample, codebook = softmax_entropies(latents, sign_codes(18), 100.0)
    losses = LFQ(bits=18)(as_latents(latents)).losses
    assert losses["per_sample_entropy"].item() == pytest.approx(per_sample.item(), rel=1e-5)
    assert losses["codebook_entropy"].item() == pytest.approx(codebook.item(), rel=1e-5)

"""The global batch norm against torch's: on one process, and on two gloo processes with half a batch each."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from toolkit.layers import JointBatchNorm

CHANNELS = 3
CASES = [torch.float64, torch.float32, torch.bfloat16]
EXACTNESS = {torch.float64: dict(rtol=1e-9, atol=1e-9), torch.float32: dict(rtol=1e-4, atol=1e-4),
             torch.bfloat16: dict(rtol=2e-2, atol=4e-2)}


def a_batch(dtype: torch.dtype, *, seed: int = 0) -> torch.Tensor:
    """(4, C, 2, 3, 3): channels of very different means and widths, and samples that differ."""
    x = torch.randn(4, CHANNELS, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centres = torch.linspace(0, 1, 4, dtype=torch.float64).reshape(4, 1, 1, 1, 1)
    widths = torch.tensor([1.0, 0.5, 4.0], dtype=torch.float64).reshape(1, CHANNELS, 1, 1, 1)
    return ((x + centres) * widths + 2).to(dtype)


def outcome(norm: nn.Module, dtype: torch.dtype, share: slice) -> dict[str, torch.Tensor]:
    """Two training steps and an eval step on a share of the batches, with first and second derivatives."""
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    norm.to(parameters).train()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    norm(a_batch(dtype, seed=1)[share])
    x = a_batch(dtype)[share].requires_grad_()
    slopes = torch.randn(4, CHANNELS, 2, 3, 3, generator=torch.Generator().manual_seed(2))[share]
    output = norm(x)
    assert output.dtype == dtype
    leaves = [x, norm.weight, norm.bias]
    of_x, of_weight, of_bias = torch.autograd.grad((output * slopes).sum(), leaves, create_graph=True)
    results = {"output": output, "of_x": of_x, "of_weight": of_weight, "of_bias": of_bias}
    if dtype == torch.float64:
        penalty = of_x.square().sum()
        results["second_of_x"], results["second_of_weight"] = torch.autograd.grad(penalty, leaves[:2])
    results |= {name: buffer.clone() for name, buffer in norm.named_buffers()}
    results["eval"] = norm.eval()(x)
    return {name: value.detach() for name, value in results.items()}


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = slice(2 * rank, 2 * rank + 2)
    far = JointBatchNorm(CHANNELS, eps=1e-5)(a_batch(torch.float32)[share] + 1000)
    torch.save({"far": far, **{str(dtype): outcome(JointBatchNorm(CHANNELS), dtype, share) for dtype in CASES}},
               f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> list[dict]:
    """Results of each of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("dtype", CASES)
def test_on_one_process_it_is_torchs(dtype):
    actual, expected = (outcome(norm, dtype, slice(4)) for norm in (JointBatchNorm(CHANNELS), nn.BatchNorm3d(CHANNELS)))
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], **EXACTNESS[dtype])


@pytest.mark.parametrize("dtype", CASES)
def test_two_processes_equal_torchs_on_the_joined_batch(halves, dtype):
    expected = outcome(nn.BatchNorm3d(CHANNELS), dtype, slice(4))
    shares = [half[str(dtype)] for half in halves]
    assert expected["num_batches_tracked"] == 2 and all(share.keys() == expected.keys() for share in shares)
    for name, whole in expected.items():
        values = [share[name] for share in shares]
        if name in dict(nn.BatchNorm3d(CHANNELS).named_buffers()):
            joined = values[0]
            assert torch.equal(*values)
        elif name.endswith(("of_weight", "of_bias")):
            joined = sum(values)  # the losses of the processes are parts of one sum
        else:
            joined = torch.cat(values)
        torch.testing.assert_close(joined, whole, **EXACTNESS[dtype], msg=lambda text, n=name: f"{n}: {text}")


def test_a_small_variance_beside_a_large_mean_keeps_its_digits(halves):
    actual = torch.cat([half["far"] for half in halves])
    # of the very numbers that float32 holds
    expected = nn.BatchNorm3d(CHANNELS).double()((a_batch(torch.float32) + 1000).double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_single_value_per_channel_has_no_variance():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        JointBatchNorm(2)(torch.zeros(1, 2, 1, 1, 1))

"""check_quantizer accepts valid quantizers and names violations."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from testing.variants import RunningScale, Ternary, changed, forwarding, ternary_of, variant
from torch import nn

from toolkit.contracts import Quantizer
from toolkit.quantizers import VQ, straight_through
from toolkit.testing import ContractViolation, check_quantizer

SOURCE = torch.Generator()  # no seed reaches it


def name_of(value: object) -> str:
    return type(value).__name__ if isinstance(value, Quantizer) else ""


class Sequence(Ternary):
    """A good one without a grid: its positions are the rows' means."""

    def positions(self, grid):
        return (grid[0], grid[1])

    def quantize_grid(self, latents):
        codes, indices, losses = self.quantize(latents.mean(4).flatten(2).transpose(1, 2))
        return self._grown(codes, latents.shape[2:]), indices, losses

    def lookup_grid(self, indices, grid):
        return self._grown(self.lookup(indices.flatten(1, 2)), grid)

    def _grown(self, codes, grid):
        return codes.transpose(1, 2).reshape(len(codes), 3, grid[0], grid[1], 1).expand(-1, -1, -1, -1, grid[2])


class Noisy(Ternary):
    """A good one whose codes in training have noise."""

    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes + torch.randn_like(codes) if self.training else codes, indices, losses


class Continuous(Quantizer):
    """A good one without a codebook."""

    dim, codebook_size = 3, 0

    def quantize(self, z):
        return z.tanh(), None, {}

    def lookup(self, indices):
        raise ValueError("no indices")


class UnsavedState(RunningScale):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale_", torch.ones(()), persistent=False)


class UnsavedCounter(Ternary):
    steps = 0

    def quantize(self, z):
        self.steps += self.training
        codes, indices, losses = super().quantize(z)
        return codes, indices, {name: loss / (1 + self.steps) for name, loss in losses.items()}


class ChangesInEval(Ternary):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def quantize(self, z):
        self.seen += 1
        return super().quantize(z)


class UnknownChild(Ternary):
    def __init__(self, *, child: Quantizer):
        super().__init__()


class SharedMemory(Ternary):
    def __init__(self):
        super().__init__()
        table = torch.ones(4)
        self.register_buffer("first", table)
        self.register_buffer("second", table)


class UnusedParameter(Ternary):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(3))


class Unbounded(Quantizer):
    """Right for latents up to 5.5."""

    dim, codebook_size = 1, 11

    def quantize(self, z):
        codes = z.round()
        return straight_through(z, codes) if self.training else codes, codes.long() + 5, {}

    def lookup(self, indices):
        return (indices - 5).float()


def mixed(self: Quantizer, latents: torch.Tensor):
    """A ``forward`` that multiplies by a matrix in the precision of the latents or of autocast."""
    if latents.shape[1] != 3:
        raise ValueError("3 channels are needed")
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).to(latents.dtype)
    return Ternary.forward(self, torch.einsum("ij,bj...->bi...", matrix, latents).to(latents.dtype))


def product_in_autocast(z: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return z + 0 * (z @ torch.ones(3, 3)).float()


@pytest.mark.parametrize("quantizer", [
    Ternary(), Ternary(scale=0.3), RunningScale(), Sequence(), Noisy(), Continuous()], ids=name_of)
def test_valid_component_passes(quantizer):
    check_quantizer(quantizer)


@pytest.mark.parametrize(("quantizer", "message"), [
    (variant(Ternary, lookup=lambda self, indices: Ternary.lookup(self, indices).flip(-1)),
     "evaluated codes exactly.*other codes: a difference at .* places.*; .*order in which quantize wrote them"),
    (variant(Ternary, codebook_size=26, digits=(26,)),
     r"indices lie in \[0, K\).*needed indices in \[0, 26\).*got 0 to 26; correct the index"),
    (Unbounded(), r"indices lie in \[0, K\).*100 times latents"),
    (variant(Ternary, digits=(3, 3)), r"needed digits, ints whose product is the codebook_size 27, got \(3, 3\)"),
    (variant(Ternary, forward=mixed),
     "indices are decided in float32.*under autocast.*other indices: .*compute .* in float32 outside autocast"),
    (ternary_of(lambda z: z.bfloat16().float()),
     "no operation in half precision on float32 latents.*bfloat16.*compute distances"),
    (ternary_of(lambda z: z.half().float()), "no operation in half precision.*float16"),
    (ternary_of(product_in_autocast), "no operation in half precision.*bfloat16"),
    (ternary_of(lambda z: z - z.mean((0, 1))),
     "does not depend on the rest of its batch.*use no statistic of the batch in eval mode"),
    (ternary_of(lambda z: z - z[:1].mean((0, 1))),
     "for sample [0-9] (alone|among others) the result it has in a batch"),
    (ternary_of(lambda z: z - 0.3 * (z.cumsum(0) - z)),
     "for sample [1-3] (alone|among others) the result it has in a batch"),
    (changed(lambda z, codes, indices, losses: (codes.detach(), indices, losses)),
     "gradient reaches the latents.*cut off from any; return codes that depend on z"),
    (changed(lambda z, codes, indices, losses: (codes + (z - z.detach()).abs().sqrt(), indices, losses)),
     "needed finite gradients at the latents in torch.float32, got NaN or infinity"),
    (ternary_of(lambda z: torch.cat([z[..., :1], z[..., 1:].detach()], dim=-1)),
     "a gradient in every channel of every sample, got none in 4 of 6"),
    (changed(lambda z, codes, indices, losses: (codes + 0 * (z / z.norm(dim=-1, keepdim=True)), indices, losses)),
     "needed finite codes of the 0 times latents"),
    (changed(lambda z, codes, indices, losses: (
        codes + torch.rand((), generator=SOURCE) * bool(losses), indices, losses)),
     "under the same seed the same training.*draw from torch's global generator"),
    (UnsavedState(), "saved and loaded.*persistent buffers"),
    (UnsavedCounter(), "goes on training alike.*the one that was saved computes, got other loss commitment"),
    (changed(lambda z, codes, indices, losses: (codes, indices, {"commitment": z.new_zeros(len(z))})),
     r"loss 'commitment' as a \(\) float32 tensor, got \(2,\) of torch.float32; .* take the mean"),
    (changed(lambda z, codes, indices, losses: (codes, indices, {"commitment": z.mean() * torch.nan})),
     "needed a finite loss 'commitment', got nan"),
    (changed(lambda z, codes, indices, losses: (
        codes, indices, {name: loss.detach() for name, loss in losses.items()})),
     "a loss 'commitment' with a gradient.*detach one side of a distance, not both"),
    (UnusedParameter(), "no gradient reaches unused: data-parallel training would stop"),
    (forwarding(lambda self, latents, out: out if self.training else replace(out, losses={"commitment": 0.0})),
     "no losses in eval mode.*return losses only if self.training"),
    (variant(Ternary, loss_weights={}), r"needed losses named as loss_weights, \[\], got \['commitment'\]"),
    (variant(Ternary, loss_weights={"commitment": 0.25, "entropy": 0.1}),
     r"needed losses named as loss_weights, \['commitment', 'entropy'\], got \['commitment'\]"),
    (variant(Ternary, loss_weights={"commitment": "0.25"}),
     "needed a dict of names and finite numbers, got {'commitment': '0.25'}"),
    (forwarding(lambda self, latents, out: replace(out, indices=out.indices.squeeze(-1))),
     r"needed indices \(1, 1, 1, 1, 1\) of torch.int64.*got \(1, 1, 1, 1\) of torch.int64"),
    (changed(lambda z, codes, indices, losses: (codes, indices.expand(-1, -1, 2), losses)),
     r"\(B, \*positions, G\).*RuntimeError.*return codes \(B, N, d\), indices \(B, N, G\)"),
    (changed(lambda z, codes, indices, losses: (codes, indices.float(), losses)),
     r"got \(1, 1, 1, 1, 1\) of torch.float32; return indices \(B, N, G\) with .long\(\)"),
    (forwarding(lambda self, latents, out: replace(out, codes=out.codes.double())),
     r"needed codes as the latents .* of torch.float32 in eval, got .* of torch.float64"),
    (variant(Ternary, forward=lambda self, latents: Ternary.forward(self, latents.data.clamp_(-1, 1))),
     "needed latents that are left as they were"),
    (ternary_of(lambda z: z + 0.1 * torch.randn_like(z)),
     "draw random numbers and move running values only if self.training"),
    (ChangesInEval(), r"eval mode changes no state.*changes of \['seen'\]; update .* only if self.training"),
    (variant(RunningScale, updates=lambda self: self.training),
     r"frozen, it changes no state.*changes of \['scale_'\].*and not self.frozen"),
    (variant(Ternary, config=property(lambda self: {"type": "Ternary", "grown": torch.ones(2)})),
     "the config is JSON.*TypeError.*take only numbers, strings"),
    (variant(Ternary, config=property(lambda self: {"type": "Ternary", "forgotten": 1.0})),
     "all it takes to build the component again.*TypeError.*argument that a config can"),
    (UnknownChild(child=Ternary()), "build the component again.*no quantizer is called 'Ternary'.*register the comp"),
    (variant(Ternary, forward=lambda self, latents: latents.shape[1] == 3 and Ternary.forward(self, latents)),
     r"needed a ValueError for latents \(2, 4, 1, 4, 4\), got no error"),
    (variant(Ternary, codes_from_indices=lambda self, i, grid: self.lookup_grid(i.long().clamp(0, 26), grid)),
     "others are refused.*needed a ValueError for index -1, got no error"),
    (SharedMemory(), "saved and loaded into a new instance.*register tensors .* each with its own memory"),
    (forwarding(lambda self, latents, out:
                out if latents.is_contiguous() else replace(out, indices=26 - out.indices)),
     "memory layout does not matter.*with channels_last_3d"),
    (variant(Continuous, quantize=lambda self, z: (z.tanh(), z[..., :1].long(), {})),
     "needed indices None, as codebook_size is 0.*return None, or set codebook_size"),
], ids=name_of)
def test_violation_is_named(quantizer, message):
    with pytest.raises(ContractViolation, match=f"(?s)^{type(quantizer).__name__} fails the check .*{message}"):
        check_quantizer(quantizer, processes=(1,))


@pytest.mark.parametrize("quantizer", [VQ(codebook_size=8, dim=3).bfloat16(), VQ(codebook_size=8, dim=3, update="ema",
                                       kmeans_iters=2, revive_below=0.2).double()], ids=["bfloat16", "float64"])
def test_module_in_another_precision_keeps_the_contract(quantizer):
    check_quantizer(quantizer, dtypes=(torch.float32, torch.float16, torch.float64), processes=(1,))


def test_the_cause_of_an_error_is_chained():
    with pytest.raises(ContractViolation) as caught:
        check_quantizer(changed(lambda z, codes, indices, losses: 1 / 0), processes=(1,))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_check_changes_neither_the_component_nor_the_generator():
    quantizer = VQ(codebook_size=8, dim=4, update="ema").train()
    before, state = pickle.dumps(quantizer), torch.get_rng_state()
    check_quantizer(quantizer, processes=(1,))
    assert pickle.dumps(quantizer) == before and torch.equal(torch.get_rng_state(), state)


def test_linear_layer_is_no_quantizer():
    with pytest.raises(ContractViolation, match='Linear fails the check "its class is derived from Quantizer"'):
        check_quantizer(nn.Linear(1, 1))

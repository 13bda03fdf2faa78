"""check_quantizer accepts valid quantizers and names violations."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from testing.broken_quantizers import (
    ChangesInEval,
    ChangesItsInput,
    ChangesWhileFrozen,
    Continuous,
    DiesOnTwo,
    DoubleCodes,
    FailsOnTwo,
    ForgetsItsArgument,
    HalfPrecision,
    LossesInEval,
    LossOfHalfTheBatch,
    NeedsContiguous,
    Noisy,
    NotRebuildable,
    OneProcessCalls,
    OwnRandomness,
    RunningScale,
    Sequence,
    SharedMemory,
    TakesAnything,
    Ternary,
    TooManyIndices,
    UnknownChild,
    UnsavedCounter,
    UnsavedState,
    UnsharedDraw,
    UnsynchronisedScale,
    WrongIndexShape,
)
from testing.variants import variant
from torch import nn

from toolkit.contracts import Quantizer
from toolkit.quantizers import VQ
from toolkit.testing import ContractViolation, check_quantizer, processes


def changed(change: Callable[..., Any]) -> Quantizer:
    """A Ternary whose ``quantize`` returns ``change(z, codes, indices, losses)``."""
    return variant(Ternary, quantize=lambda self, z: change(z, *Ternary.quantize(self, z)))


@pytest.mark.parametrize("quantizer", [
    Ternary(), Ternary(scale=0.3), RunningScale(), Sequence(), Noisy(), Continuous()], ids=lambda q: type(q).__name__)
def test_valid_component_passes(quantizer):
    check_quantizer(quantizer)


@pytest.mark.parametrize(("quantizer", "message"), [
    (variant(Ternary, lookup=lambda self, indices: Ternary.lookup(self, indices).flip(-1)),
     "evaluated codes exactly.*others in .* entries; .*order in which quantize wrote them"),
    (variant(Ternary, codebook_size=26, digits=(26,)),
     r"indices lie in \[0, K\).*needed indices in \[0, 26\).*got 0 to 26; correct the index"),
    (variant(Ternary, digits=(3, 3)), r"needed digits, ints whose product is the codebook_size 27, got \(3, 3\)"),
    (variant(Ternary, quantize=lambda self, z: Ternary.quantize(self, z - z.mean((0, 1)))),
     "does not depend on the rest of its batch.*use no statistic of the batch in eval mode"),
    (HalfPrecision(), "indices are decided in float32.*other indices at .*compute in float32 outside autocast"),
    (changed(lambda z, codes, indices, losses: (codes.detach(), indices, losses)),
     "gradient reaches the latents.*cut off from any; return codes that depend on z"),
    (changed(lambda z, codes, indices, losses: (codes + (z - z.detach()).abs().sqrt(), indices, losses)),
     "needed finite gradients for torch.float32, got NaN or infinity"),
    (OwnRandomness(), "under the same seed the same training.*draw from torch's global generator"),
    (UnsavedState(), "saved and loaded.*persistent buffers"),
    (UnsavedCounter(), "goes on training alike.*the loss commitment of the one that was saved, got another"),
    (changed(lambda z, codes, indices, losses: (codes, indices, {"commitment": z.new_zeros(len(z))})),
     r"loss 'commitment' as a \(\) float32 tensor, got \(2,\) of torch.float32; .* take the mean"),
    (changed(lambda z, codes, indices, losses: (codes, indices, {"commitment": z.mean() * torch.nan})),
     "needed a finite loss 'commitment', got nan"),
    (LossesInEval(), "no losses in eval mode.*return losses only if self.training"),
    (variant(Ternary, loss_weights={}), r"needed losses named as loss_weights, \[\], got \['commitment'\]"),
    (variant(Ternary, loss_weights={"commitment": 0.25, "entropy": 0.1}),
     r"needed losses named as loss_weights, \['commitment', 'entropy'\], got \['commitment'\]"),
    (variant(Ternary, loss_weights={"commitment": "0.25"}),
     "needed a dict of names and finite numbers, got {'commitment': '0.25'}"),
    (WrongIndexShape(), r"needed indices \(1, 1, 1, 1, 1\) of torch.int64.*got \(1, 1, 1, 1\) of torch.int64"),
    (TooManyIndices(), r"\(B, \*positions, G\).*RuntimeError.*return codes \(B, N, d\), indices \(B, N, G\)"),
    (changed(lambda z, codes, indices, losses: (codes, indices.float(), losses)),
     r"got \(1, 1, 1, 1, 1\) of torch.float32; return indices \(B, N, G\) with .long\(\)"),
    (DoubleCodes(), r"needed codes as the latents .* of torch.float32 in eval, got .* of torch.float64"),
    (ChangesItsInput(), "needed latents that are left as they were"),
    (variant(Ternary, quantize=lambda self, z: Ternary.quantize(self, z + 0.1 * torch.randn_like(z))),
     "draw random numbers and move running values only if self.training"),
    (ChangesInEval(), r"eval mode changes no state.*changes of \['seen'\]; update .* only if self.training"),
    (ChangesWhileFrozen(), r"frozen, it changes no state.*changes of \['scale_'\].*and not self.frozen"),
    (NotRebuildable(), "the config is JSON.*TypeError.*take only numbers, strings"),
    (ForgetsItsArgument(), "all it takes to build the component again.*TypeError.*argument that a config can"),
    (UnknownChild(child=Ternary()), "build the component again.*no quantizer is called 'Ternary'.*register the comp"),
    (TakesAnything(), r"needed a ValueError for latents \(2, 4, 1, 4, 4\), got no error"),
    (variant(Ternary, codes_from_indices=lambda self, i, grid: self.lookup_grid(i.long().clamp(0, 26), grid)),
     "others are refused.*needed a ValueError for index -1, got no error"),
    (SharedMemory(), "saved and loaded into a new instance.*register tensors .* each with its own memory"),
    (NeedsContiguous(), "memory layout does not matter.*with channels_last_3d"),
    (variant(Continuous, quantize=lambda self, z: (z.tanh(), z[..., :1].long(), {})),
     "a continuous bottleneck has no indices.*return None, or set codebook_size"),
], ids=lambda value: type(value).__name__ if isinstance(value, Quantizer) else "")
def test_violation_is_named(quantizer, message):
    with pytest.raises(ContractViolation, match=f"(?s)^{type(quantizer).__name__} fails the check .*{message}"):
        check_quantizer(quantizer, processes=(1,))


@pytest.mark.parametrize(("quantizer", "message"), [
    (UnsynchronisedScale(), "two processes train like one.*one state scale_ in both processes.*sum_over_processes"),
    (UnsharedDraw(), "one state scale_ in both processes at step 0.*share random draws by from_first_process"),
    (LossOfHalfTheBatch(), "the loss commitment of the joined batch, got .* instead of .*mean_over_processes"),
    (FailsOnTwo(), "this in process [01]:.*Traceback.*RuntimeError: the second process is one too many"),
    (DiesOnTwo(), r"the end of process [01] \(exit code 3\)"),
], ids=lambda value: type(value).__name__ if isinstance(value, Quantizer) else "")
def test_violation_on_two_processes_is_named(quantizer, message):
    check_quantizer(quantizer, processes=(1,))
    with pytest.raises(ContractViolation, match=f"(?s){message}"):
        check_quantizer(quantizer)


def test_deadlock_of_two_processes_is_named(monkeypatch):
    monkeypatch.setattr(processes, "TIMEOUT", 20.0)
    monkeypatch.setattr(processes, "GRACE", 2.0)
    with pytest.raises(ContractViolation, match="a collective call is made by one process only"):
        check_quantizer(OneProcessCalls())
    check_quantizer(Ternary())  # by a new pair


def test_class_inside_a_function_is_refused_on_two_processes():
    class Local(Ternary):
        pass

    check_quantizer(Local(), processes=(1,))
    with pytest.raises(ContractViolation, match=r"Local.*define the class at the top level of a module"):
        check_quantizer(Local())


def test_the_cause_of_an_error_is_chained():
    with pytest.raises(ContractViolation) as caught:
        check_quantizer(TooManyIndices(), processes=(1,))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_check_changes_neither_the_component_nor_the_generator():
    quantizer = VQ(codebook_size=8, dim=4, update="ema").train()
    before, state = pickle.dumps(quantizer), torch.get_rng_state()
    check_quantizer(quantizer, processes=(1,))
    assert pickle.dumps(quantizer) == before and torch.equal(torch.get_rng_state(), state)


def test_linear_layer_is_no_quantizer():
    with pytest.raises(ContractViolation, match="Linear fails the check \"it is a Quantizer\""):
        check_quantizer(nn.Linear(1, 1))

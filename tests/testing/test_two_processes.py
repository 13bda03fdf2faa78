"""check_quantizer trains in two processes, and names what differs there, fails or waits.

The classes are at the top level of a module, as two processes need them to be.
"""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from testing.variants import RunningScale, Ternary, variant
from torch import nn
from torch.distributed import is_initialized
from torch.nn.utils.parametrizations import weight_norm

from toolkit.contracts import Quantizer
from toolkit.layers import gather_over_processes, sum_over_processes
from toolkit.testing import ContractViolation, check_quantizer, processes


class UnsynchronisedScale(RunningScale):
    def learn(self, z):
        self.scale_.lerp_(z.abs().mean(), 0.1)


class UnsharedDraw(RunningScale):
    """The joined batch is gathered, but each process draws its own sample of it."""

    def learn(self, z):
        samples = gather_over_processes(z.flatten(0, 1))
        self.scale_.copy_(samples[torch.randint(len(samples), ())].abs().mean().clamp(min=0.1))


class LossOfHalfTheBatch(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices, {name: z.mean((0, 1)).square().sum() for name in losses}


class OneProcessCalls(Ternary):
    def quantize(self, z):
        if is_initialized() and torch.distributed.get_rank() == 0:
            sum_over_processes(torch.ones(()))
        return super().quantize(z)


class FailsOnTwo(Ternary):
    def quantize(self, z):
        if is_initialized():
            raise RuntimeError("the second process is one too many")
        return super().quantize(z)


class DiesOnTwo(Ternary):
    def quantize(self, z):
        if is_initialized():
            os._exit(3)
        return super().quantize(z)


class WeightNormed(Ternary):
    """Factorized codes (Improved RVQGAN, arXiv:2306.06546): rounded after a projection with weight norm."""

    def __init__(self):
        super().__init__()
        self.project = weight_norm(nn.Linear(3, 3))

    def quantize(self, z):
        return super().quantize(self.project(z))


class SumsOverTheBatch(WeightNormed):
    """A loss that two processes with half a batch each see halved."""

    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices, {name: loss * len(z) for name, loss in losses.items()}


@pytest.mark.parametrize(("quantizer", "message"), [
    (UnsynchronisedScale(), "two processes train like one.*the same state in both processes at step 0, got other "
                            "state scale_.*sum_over_processes"),
    (UnsharedDraw(), "the same state in both processes at step 0, got other state scale_.*share random draws by "
                     "from_first_process"),
    (LossOfHalfTheBatch(), "the loss commitment of the joined batch, got .* instead of .*mean_over_processes"),
    (SumsOverTheBatch(), "two processes train like one.*the loss commitment of the joined"),
    (FailsOnTwo(), "this in process [01]:.*Traceback.*RuntimeError: the second process is one too many"),
    (DiesOnTwo(), r"the end of process [01] \(exit code 3\)"),
    (variant(Ternary), "Ternary_ .*define the class at the top level of a module"),
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


def test_quantizer_with_weight_norm_is_checked_on_two_processes():
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(WeightNormed())
    check_quantizer(WeightNormed())

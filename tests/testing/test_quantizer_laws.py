"""check_quantizer passes what keeps the contract and names what does not.

The broken quantizers are at the top level, as two processes need them to be.
"""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

from toolkit.contracts import Quantizer, QuantizerOutput
from toolkit.layers import gather_over_processes, mean_over_processes, sum_over_processes
from toolkit.quantizers import VQ, straight_through
from toolkit.testing import ContractViolation, check_quantizer, processes


class Ternary(Quantizer):
    """A good one to break: each channel is rounded to -1, 0 or 1, the first channel is the most significant digit."""

    dim, codebook_size, digits = 3, 27, (3, 3, 3)
    loss_weights = {"commitment": 0.25}

    def __init__(self, *, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.register_buffer("place", torch.tensor([9, 3, 1]), persistent=False)

    def quantize(self, z):
        digits = (z / self.scale).clamp(-1, 1).round()
        indices = ((digits.long() + 1) * self.place).sum(-1, keepdim=True)
        codes = digits * self.scale
        if not self.training:
            return codes, indices, {}
        return straight_through(z, codes), indices, {"commitment": (z - codes).square().mean()}

    def lookup(self, indices):
        return ((indices // self.place) % 3 - 1.0) * self.scale


class RunningScale(Ternary):
    """A good one with a state: the scale is a running mean over the batches of all processes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale_", torch.ones(()))
        del self.scale

    scale = property(lambda self: self.scale_, lambda self, value: None, lambda self: None)

    def quantize(self, z):
        if self.training and not self.frozen:
            self.learn(z.detach())
        return super().quantize(z)

    def learn(self, z):
        self.scale_.lerp_(mean_over_processes(z.abs().mean()), 0.1)


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


# What breaks one law each.


class WrongDigitOrder(Ternary):
    def lookup(self, indices):
        return super().lookup(indices).flip(-1)


class OutOfRange(Ternary):
    codebook_size, digits = 26, (26,)


class WrongDigits(Ternary):
    digits = (3, 3)


class BatchDependent(Ternary):
    def quantize(self, z):
        return super().quantize(z - z.mean((0, 1)))


class HalfPrecision(Ternary):
    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))

    def quantize(self, z):
        return super().quantize(z @ self.mix.to(z.dtype))

    def forward(self, latents):
        if latents.shape[1] != self.dim or latents.ndim != 5:
            raise ValueError
        codes, indices, losses = self.quantize(latents.movedim(1, -1).flatten(1, 3))
        shape = latents.movedim(1, -1).shape
        losses = {name: loss.float() for name, loss in losses.items()} if self.training else {}
        return QuantizerOutput(codes.reshape(shape).movedim(-1, 1).to(latents.dtype),
                               indices.reshape(*shape[:-1], 1), losses)


class LostGradient(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes.detach(), indices, losses


class InfiniteGradient(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes + (z - z.detach()).abs().sqrt(), indices, losses


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


class UnsynchronisedScale(RunningScale):
    def learn(self, z):
        self.scale_.lerp_(z.abs().mean(), 0.1)


class LossOfHalfTheBatch(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices, {name: z.mean((0, 1)).square().sum() for name in losses}


class UnsharedDraw(RunningScale):
    """The joined batch is gathered, but each process draws its own sample of it."""

    def learn(self, z):
        samples = gather_over_processes(z.flatten(0, 1))
        self.scale_.copy_(samples[torch.randint(len(samples), ())].abs().mean().clamp(min=0.1))


class OneProcessCalls(Ternary):
    def quantize(self, z):
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 0:
            sum_over_processes(torch.ones(()))
        return super().quantize(z)


class FailsOnTwo(Ternary):
    def quantize(self, z):
        if torch.distributed.is_initialized():
            raise RuntimeError("the second process is one too many")
        return super().quantize(z)


class DiesOnTwo(Ternary):
    def quantize(self, z):
        if torch.distributed.is_initialized():
            import os

            os._exit(3)
        return super().quantize(z)


class NotScalar(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices, {name: loss.expand(len(z)) for name, loss in losses.items()}


class NanLoss(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices, {name: loss * torch.nan for name, loss in losses.items()}


class LossesInEval(Ternary):
    def forward(self, latents):
        out = super().forward(latents)
        return out if self.training else QuantizerOutput(out.codes, out.indices, {"commitment": latents.new_zeros(())})


class LossWithoutWeight(Ternary):
    loss_weights = {}


class WeightWithoutLoss(Ternary):
    loss_weights = {"commitment": 0.25, "entropy": 0.1}


class WeightIsNoNumber(Ternary):
    loss_weights = {"commitment": "0.25"}


class WrongIndexShape(Ternary):
    def forward(self, latents):
        out = super().forward(latents)
        return QuantizerOutput(out.codes, out.indices.squeeze(-1), out.losses)


class TooManyIndices(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices.expand(-1, -1, 2), losses


class FloatIndices(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices.float(), losses


class DoubleCodes(Ternary):
    def forward(self, latents):
        out = super().forward(latents)
        return QuantizerOutput(out.codes.double(), out.indices, out.losses)


class ChangesItsInput(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        z.data.clamp_(-1, 1)
        return codes, indices, losses

    def forward(self, latents):
        out = super().forward(latents)
        latents.data.clamp_(-1, 1)
        return out


class RandomInEval(Ternary):
    def quantize(self, z):
        return super().quantize(z + 0.1 * torch.randn_like(z))


class ChangesInEval(Ternary):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def quantize(self, z):
        self.seen += 1
        return super().quantize(z)


class ChangesWhileFrozen(RunningScale):
    def quantize(self, z):
        if self.training:
            self.learn(z.detach())
        return Ternary.quantize(self, z)


class NotRebuildable(Ternary):
    def __init__(self, *, grown: Tensor):
        super().__init__()


class ForgetsItsArgument(Ternary):
    def __init__(self, *scales: float):
        super().__init__()

    def quantize(self, z):
        return super().quantize(z)

    @property
    def config(self):
        return {"type": "ForgetsItsArgument", "scale": 1.0}


class UnknownChild(Ternary):
    def __init__(self, *, child: Quantizer):
        super().__init__()


class TakesAnything(Ternary):
    def forward(self, latents):
        if latents.ndim != 5 or latents.shape[1] != 3:
            return None
        return super().forward(latents)


class HalfTable(Ternary):
    def codes_from_indices(self, indices, grid=None):
        return self.lookup_grid(indices.long().clamp(0, 26), tuple(indices.shape[1:4]))


class SharedMemory(Ternary):
    def __init__(self):
        super().__init__()
        table = torch.ones(4)
        self.register_buffer("first", table)
        self.register_buffer("second", table)


class NeedsContiguous(Ternary):
    def forward(self, latents):
        out = super().forward(latents)
        if not latents.is_contiguous():
            out.indices = 26 - out.indices
        return out


class ContinuousWithIndices(Continuous):
    def quantize(self, z):
        return z.tanh(), z[..., :1].long(), {}


class OwnRandomness(Ternary):
    """Noise of a generator that no seed reaches."""

    source = torch.Generator()

    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes + torch.rand((), generator=OwnRandomness.source) * self.training, indices, losses


@pytest.mark.parametrize("quantizer", [
    Ternary(), Ternary(scale=0.3), RunningScale(), Sequence(), Noisy(), Continuous()], ids=lambda q: type(q).__name__)
def test_what_keeps_the_contract_passes(quantizer):
    check_quantizer(quantizer)


@pytest.mark.parametrize(("quantizer", "message"), [
    (WrongDigitOrder(), "evaluated codes exactly.*others in .* entries; .*order in which quantize wrote them"),
    (OutOfRange(), r"indices lie in \[0, K\).*needed indices in \[0, 26\).*got 0 to 26; correct the index"),
    (WrongDigits(), r"needed digits, ints whose product is the codebook_size 27, got \(3, 3\)"),
    (BatchDependent(), "does not depend on the rest of its batch.*use no statistic of the batch in eval mode"),
    (HalfPrecision(), "indices are decided in float32.*other indices at .*compute in float32 outside autocast"),
    (LostGradient(), "gradient reaches the latents.*cut off from any; return codes that depend on z"),
    (InfiniteGradient(), "needed finite gradients for torch.float32, got NaN or infinity"),
    (OwnRandomness(), "under the same seed the same training.*draw from torch's global generator"),
    (UnsavedState(), "saved and loaded.*persistent buffers"),
    (UnsavedCounter(), "goes on training alike.*the loss commitment of the one that was saved, got another"),
    (NotScalar(), r"loss 'commitment' as a \(\) float32 tensor, got \(2,\) of torch.float32; take the mean"),
    (NanLoss(), "needed a finite loss 'commitment', got nan"),
    (LossesInEval(), "no losses in eval mode.*return losses only if self.training"),
    (LossWithoutWeight(), r"needed losses named as loss_weights, \[\], got \['commitment'\]"),
    (WeightWithoutLoss(), r"needed losses named as loss_weights, \['commitment', 'entropy'\], got \['commitment'\]"),
    (WeightIsNoNumber(), "needed a dict of names and finite numbers, got {'commitment': '0.25'}"),
    (WrongIndexShape(), r"needed indices \(1, 1, 1, 1, 1\) of torch.int64.*got \(1, 1, 1, 1\) of torch.int64"),
    (TooManyIndices(), r"\(B, \*positions, G\).*RuntimeError.*return codes \(B, N, d\), indices \(B, N, G\)"),
    (FloatIndices(), r"got \(1, 1, 1, 1, 1\) of torch.float32; return indices \(B, N, G\) with .long\(\)"),
    (DoubleCodes(), r"needed codes as the latents .* of torch.float32 in eval, got .* of torch.float64"),
    (ChangesItsInput(), "needed latents that are left as they were"),
    (RandomInEval(), "draw random numbers and move running values only if self.training"),
    (ChangesInEval(), r"eval mode changes no state.*changes of \['seen'\]; update .* only if self.training"),
    (ChangesWhileFrozen(), r"frozen, it changes no state.*changes of \['scale_'\].*and not self.frozen"),
    (NotRebuildable(grown=torch.ones(2)), "the config is JSON.*TypeError.*take only numbers, strings"),
    (ForgetsItsArgument(), "all it takes to build the part again.*TypeError.*constructor argument that a config can"),
    (UnknownChild(child=Ternary()), "build the part again.*no quantizer is called 'Ternary'.*register the parts"),
    (TakesAnything(), r"needed a ValueError for latents \(2, 4, 1, 4, 4\), got no error"),
    (HalfTable(), "others are refused.*needed a ValueError for index -1, got no error"),
    (SharedMemory(), "saved and loaded into a new instance.*register tensors .* each with its own memory"),
    (NeedsContiguous(), "memory layout does not matter.*with channels_last_3d"),
    (ContinuousWithIndices(), "a continuous bottleneck has no indices.*return None, or set codebook_size"),
], ids=lambda value: type(value).__name__ if isinstance(value, Quantizer) else "")
def test_what_breaks_it_is_told(quantizer, message):
    with pytest.raises(ContractViolation, match=f"(?s)^{type(quantizer).__name__} breaks the law .*{message}"):
        check_quantizer(quantizer, processes=(1,))


@pytest.mark.parametrize(("quantizer", "message"), [
    (UnsynchronisedScale(), "two processes train like one.*one state scale_ in both processes.*sum_over_processes"),
    (UnsharedDraw(), "one state scale_ in both processes at step 0.*share random draws by from_first_process"),
    (LossOfHalfTheBatch(), "the loss commitment of the joined batch, got .* instead of .*mean_over_processes"),
    (FailsOnTwo(), "this in process [01]:.*Traceback.*RuntimeError: the second process is one too many"),
    (DiesOnTwo(), r"the end of process [01] \(exit code 3\)"),
], ids=lambda value: type(value).__name__ if isinstance(value, Quantizer) else "")
def test_what_breaks_on_two_processes_is_told(quantizer, message):
    check_quantizer(quantizer, processes=(1,))
    with pytest.raises(ContractViolation, match=f"(?s){message}"):
        check_quantizer(quantizer)


def test_processes_that_wait_for_each_other_are_told(monkeypatch):
    monkeypatch.setattr(processes, "TIMEOUT", 20.0)
    monkeypatch.setattr(processes, "GRACE", 2.0)
    with pytest.raises(ContractViolation, match="a collective call is made by one process only"):
        check_quantizer(OneProcessCalls())
    check_quantizer(Ternary())  # by a new pair


def test_a_class_within_a_function_is_to_be_moved_out():
    class Local(Ternary):
        pass

    check_quantizer(Local(), processes=(1,))
    with pytest.raises(ContractViolation, match=r"Local.*define the class at the top level of a module"):
        check_quantizer(Local())


def test_the_cause_of_an_error_is_chained():
    with pytest.raises(ContractViolation) as caught:
        check_quantizer(TooManyIndices(), processes=(1,))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_nothing_changes_neither_the_part_nor_the_random_numbers():
    quantizer = VQ(codebook_size=8, dim=4, update="ema").train()
    before, state = pickle.dumps(quantizer), torch.get_rng_state()
    check_quantizer(quantizer, processes=(1,))
    assert pickle.dumps(quantizer) == before and torch.equal(torch.get_rng_state(), state)


def test_something_else_is_no_quantizer():
    with pytest.raises(ContractViolation, match="Linear breaks the law \"it is a Quantizer\""):
        check_quantizer(nn.Linear(1, 1))

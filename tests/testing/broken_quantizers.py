"""Quantizers that keep the contract, and for each check one that fails it.

They are at the top level of a module, as two processes need them to be.
"""

from __future__ import annotations

import torch
from torch import nn

from toolkit.contracts import Quantizer, QuantizerOutput
from toolkit.layers import gather_over_processes, mean_over_processes, sum_over_processes
from toolkit.quantizers import straight_through


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


# Each fails one check.


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


class LossesInEval(Ternary):
    def forward(self, latents):
        out = super().forward(latents)
        return out if self.training else QuantizerOutput(out.codes, out.indices, {"commitment": latents.new_zeros(())})


class WrongIndexShape(Ternary):
    def forward(self, latents):
        out = super().forward(latents)
        return QuantizerOutput(out.codes, out.indices.squeeze(-1), out.losses)


class TooManyIndices(Ternary):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices.expand(-1, -1, 2), losses


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
    @property
    def config(self):
        return {"type": "NotRebuildable", "grown": torch.ones(2)}


class ForgetsItsArgument(Ternary):
    def __init__(self, *scales: float):
        super().__init__()

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


class OwnRandomness(Ternary):
    """Noise of a generator that no seed reaches."""

    source = torch.Generator()

    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes + torch.rand((), generator=OwnRandomness.source) * self.training, indices, losses

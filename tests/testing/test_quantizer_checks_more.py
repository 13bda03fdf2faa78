"""check_quantizer on errors of precision, range and gradients, and on a quantizer that cannot be pickled."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from toolkit.contracts import Quantizer
from toolkit.quantizers import LFQ, VQ, nearest_codes, straight_through
from toolkit.testing import ContractViolation, check_quantizer


class RoundsToHalf(LFQ):
    def quantize(self, z):
        return super().quantize(z.bfloat16().float())


class HalfDistances(VQ):
    def quantize(self, z):
        _, indices, losses = super().quantize(z)
        indices = nearest_codes(z.half().flatten(0, 1).float(), self.codebook).reshape(indices.shape)
        codes = self.lookup(indices)
        return straight_through(z, codes), indices, losses


class AutocastInside(VQ):
    def quantize(self, z):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            similarity = z @ self.codebook.T
        codes, indices, losses = super().quantize(z)
        return codes + 0 * similarity.float().sum(), indices, losses


class DependsOnTheFirstSample(LFQ):
    def quantize(self, z):
        return super().quantize(z - z[:1].mean((0, 1)))


class DependsOnEarlierSamples(LFQ):
    def quantize(self, z):
        return super().quantize(z - 0.3 * (z.cumsum(0) - z))


class Unbounded(Quantizer):
    """Right for latents up to 5.5."""

    dim, codebook_size = 1, 11

    def quantize(self, z):
        codes = z.round()
        return straight_through(z, codes) if self.training else codes, codes.long() + 5, {}

    def lookup(self, indices):
        return (indices - 5).float()


class NanOnZero(LFQ):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes + 0 * (z / z.norm(dim=-1, keepdim=True)), indices, losses


class OneChannelLearns(LFQ):
    def quantize(self, z):
        return super().quantize(torch.cat([z[..., :1], z[..., 1:].detach()], dim=-1))


class LossesOfNothing(LFQ):
    def quantize(self, z):
        codes, indices, losses = super().quantize(z)
        return codes, indices, {name: loss.detach() for name, loss in losses.items()}


class UnusedParameter(LFQ):
    def __init__(self, *, bits: int = 4):
        super().__init__(bits=bits)
        self.unused = nn.Parameter(torch.zeros(3))


class WeightNormed(Quantizer):
    """Factorized codes (Improved RVQGAN, arXiv:2306.06546): rounded after a projection with weight norm."""

    loss_weights = {"commitment": 0.25}
    dim, codebook_size = 2, 9

    def __init__(self):
        super().__init__()
        self.project = weight_norm(nn.Linear(2, 2))

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        projected = self.project(z)
        digits = projected.detach().round().clamp(-1, 1)
        indices = (digits[..., :1] * 3 + digits[..., 1:] + 4).long()
        if not self.training:
            return digits, indices, {}
        return projected + (digits - projected).detach(), indices, {"commitment": self.commitment(projected, digits)}

    def lookup(self, indices: Tensor) -> Tensor:
        return nn.functional.pad(indices // 3, (0, 1)).float() + nn.functional.pad(indices % 3, (1, 0)) - 1

    @staticmethod
    def commitment(projected: Tensor, digits: Tensor) -> Tensor:
        return (projected - digits).square().mean()


class SumsOverTheBatch(WeightNormed):
    """A loss that two processes with half a batch each see halved."""

    @staticmethod
    def commitment(projected: Tensor, digits: Tensor) -> Tensor:
        return (projected - digits).square().sum()


@pytest.mark.parametrize(("quantizer", "message"), [
    (RoundsToHalf(bits=4), "no operation in half precision on float32 latents.*bfloat16.*compute distances"),
    (HalfDistances(codebook_size=8, dim=4), "no operation in half precision.*float16"),
    (AutocastInside(codebook_size=8, dim=4), "no operation in half precision.*bfloat16"),
    (DependsOnTheFirstSample(bits=4), "for sample [0-9] (alone|among others) the result it has in a batch"),
    (DependsOnEarlierSamples(bits=4), "for sample [1-3] (alone|among others) the result it has in a batch"),
    (Unbounded(), r"indices lie in \[0, K\).*100 times latents"),
    (NanOnZero(bits=4), "needed finite codes of the 0 times latents"),
    (OneChannelLearns(bits=4), "a gradient in every channel of every sample, got none in 6 of 8"),
    (LossesOfNothing(bits=4), "a loss 'commitment' with a gradient.*detach one side of a distance, not both"),
    (UnusedParameter(), "no gradient reaches unused: data-parallel training would stop"),
], ids=lambda value: type(value).__name__ if isinstance(value, Quantizer) else "")
def test_violation_is_named(quantizer, message):
    with pytest.raises(ContractViolation, match=f"(?s)^{type(quantizer).__name__} fails the check .*{message}"):
        check_quantizer(quantizer, processes=(1,))


@pytest.mark.parametrize("quantizer", [VQ(codebook_size=8, dim=3).bfloat16(), VQ(codebook_size=8, dim=3, update="ema",
                                       kmeans_iters=2, revive_below=0.2).double()], ids=["bfloat16", "float64"])
def test_module_in_another_precision_keeps_the_contract(quantizer):
    check_quantizer(quantizer, processes=(1,))


def test_quantizer_with_weight_norm_is_checked_on_two_processes():
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(WeightNormed())
    check_quantizer(WeightNormed())
    with pytest.raises(ContractViolation, match=r"two processes train like one.*the loss commitment of the joined"):
        check_quantizer(SumsOverTheBatch())

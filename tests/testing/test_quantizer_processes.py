"""Quantizers that cannot be pickled are held to the laws of two processes too."""

from __future__ import annotations

import pickle

import pytest
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from toolkit.contracts import Quantizer
from toolkit.testing import ContractViolation, check_quantizer


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


def test_quantizer_with_weight_norm_is_checked_on_two_processes():
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(WeightNormed())
    check_quantizer(WeightNormed())
    with pytest.raises(ContractViolation, match=r"two processes train like one.*the loss commitment of the joined"):
        check_quantizer(SumsOverTheBatch())

"""Indices computed by hand, weights, refusals and non-finite latents, for every registered quantizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from quantizers.formulas import as_latents
from testing.test_every_component import TINY

from toolkit.build import build_component
from toolkit.quantizers import BSQ, FSQ, IBQ, KL, LFQ, VQ, Grouped, Identity, Residual
from toolkit.registry import QUANTIZERS
from toolkit.testing.components import state_of

LFQ2 = dict(type="LFQ", bits=2)
ROWS = [[0.0, 0.0], [0.0, 4.0], [4.0, 0.0], [5.0, 5.0]]  # the codebook of quantizers that learn one
SIGNS = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]]
LOW, HIGH = -9.0, 9.0

# Config, sizes of the digits (most significant first), latents (N, d), index of each codebook (N, G). Stored tokens
# depend on them.
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], list[list[float]], list[list[int]]]] = {
    # The first of three channels is worth 4, 2, 1, or 1, 2, 4.
    "LFQ": (dict(type="LFQ", bits=3), (2, 2, 2), SIGNS, [[4], [2], [1], [6]]),
    "LFQ, lsb_first": (dict(type="LFQ", bits=3, bit_order="lsb_first"), (2, 2, 2), SIGNS, [[1], [2], [4], [3]]),
    "LFQ, two codebooks": (dict(type="LFQ", bits=2, num_codebooks=2), (2, 2), [[1, -1, -1, 1], [1, 1, 1, -1]],
                           [[2, 1], [3, 2]]),
    "BSQ": (dict(type="BSQ", bits=3), (2, 2, 2), [*SIGNS, [0, 0, 0], [-9, 1e-9, -0.5]], [[4], [2], [1], [6], [0], [2]]),
    # Levels 0..2 of the first channel are worth 1, levels 0..3 of the second 3: 2 + 0, 0 + 9, 1 + 6, 2 + 9.
    "FSQ": (dict(type="FSQ", levels=[3, 4]), (4, 3), [[9, -9], [-9, 9], [0, 0], [9, 9]], [[2], [9], [7], [11]]),
    # The paper's code (appendix A.1): basis (1, 8, 40, 200), level 0 the lowest.
    "FSQ, 1000 codes": (dict(type="FSQ", levels=[8, 5, 5, 5]), (5, 5, 5, 8), [
        [LOW] * 4, [HIGH, LOW, LOW, LOW], [LOW, HIGH, LOW, LOW], [LOW, LOW, HIGH, LOW], [LOW, LOW, LOW, HIGH],
        [HIGH] * 4, [0] * 4], [[0], [7], [4 * 8], [4 * 40], [4 * 200], [999], [4 + 2 * 8 + 2 * 40 + 2 * 200]]),
    # Rows by distance; by dot product (5, 5) beats (0, 4) and (4, 0) unless a factor is negative, and ties are 0.
    "VQ": (dict(type="VQ", codebook_size=4, dim=2), (4,), [[0.1, 0.2], [0.5, 3.5], [4.1, 0.3], [6, 5]],
           [[0], [1], [2], [3]]),
    "IBQ": (dict(type="IBQ", codebook_size=4, dim=2), (4,), [[-1, -1], [-9, 1], [1, -9], [0.1, 0.1], [0, 0]],
            [[0], [1], [2], [3], [0]]),
    "Grouped": (dict(type="Grouped", quantizers=[LFQ2, LFQ2]), (2, 2), [[1, -1, -1, 1], [1, 1, -1, -1]],
                [[2, 1], [3, 0]]),
    # 0.7 -> 1 leaves -0.3 -> -0.5 leaves 0.2; -1.8 -> -1 leaves -0.8 -> -0.5 leaves -0.3.
    # 1.3 -> 1 leaves 0.3 -> 0.5 leaves -0.2; 0.1 -> 1 leaves -0.9 -> -0.5 leaves -0.4.
    "Residual": (dict(type="Residual", quantizers=[dict(LFQ2, scale=scale) for scale in (1.0, 0.5, 0.25)]), (2, 2),
                 [[0.7, -1.8], [1.3, 0.1]], [[2, 0, 2], [3, 2, 0]]),
}
SIGN_WEIGHTS = {"commitment": 0.25, "per_sample_entropy": 0.1, "codebook_entropy": -0.1}  # O2-MAGVIT2, BSQ's code
WEIGHTS = [
    (LFQ(bits=4), SIGN_WEIGHTS), (BSQ(bits=4), SIGN_WEIGHTS), (FSQ(levels=[3, 3]), {}),
    # SEED-Voken's IBQ: mse(code, z) + mse(z, sg row) + 0.25 mse(row, sg z), and 0.05 (per sample - codebook entropy).
    (IBQ(codebook_size=4, dim=2), {"quantization": 1.0, "commitment": 1.0, "codebook": 0.25,
                                   "per_sample_entropy": 0.05, "codebook_entropy": -0.05}),
    # VQ-VAE, eq. 3 with beta = 0.25; the codebook of running averages has no loss (appendix A.1).
    (VQ(codebook_size=4, dim=2), {"commitment": 0.25, "codebook": 1.0}),
    (VQ(codebook_size=4, dim=2, update="ema"), {"commitment": 0.25}),
    (KL(dim=2), {"kl": 1e-6})]  # latent diffusion (arXiv:2112.10752)
SMALL = dict(codebook_size=4, dim=2)
PAIR = dict(quantizers=[LFQ(bits=2), LFQ(bits=2)])
REFUSED = [
    *[(kind, "needs 1 to 62 bits", dict(bits=bits)) for kind in (LFQ, BSQ) for bits in (0, 63, -1)],
    *[(LFQ, "needs equal entropy groups of at most 24 bits", arguments) for arguments in (
        dict(bits=25), dict(bits=36), dict(bits=62), dict(bits=50, entropy_groups=2), dict(bits=18, entropy_groups=4),
        dict(bits=4, entropy_groups=0), dict(bits=4, entropy_groups=-1))],
    *[(BSQ, "needs equal entropy groups of at most 24 bits", arguments) for arguments in (
        dict(bits=36, entropy_groups=1), dict(bits=4, entropy_groups=0))],
    *[(LFQ, "needs num_codebooks >= 1, and finite scale > 0 and inv_temperature > 0", arguments) for arguments in (
        dict(num_codebooks=0), dict(scale=0.0), dict(scale=math.nan), dict(inv_temperature=0.0),
        dict(inv_temperature=math.inf))],
    (LFQ, "needs bit_order 'msb_first' or 'lsb_first' and sign_of_zero -1 or 1", dict(bits=2, bit_order="big")),
    (LFQ, "needs bit_order 'msb_first' or 'lsb_first' and sign_of_zero -1 or 1", dict(bits=2, sign_of_zero=0)),
    *[(FSQ, "needs one or more levels", dict(levels=levels)) for levels in ([], [8, 2], [2**21] * 3, [2**25])],
    (FSQ, "needs bound 'tanh' or 'ifsq'", dict(levels=[8], bound="sigmoid")),
    (IBQ, "needs codebook_size >= 2", dict(SMALL, codebook_size=1)), (IBQ, "needs .*dim >= 1", dict(SMALL, dim=0)),
    (IBQ, "needs .*temperature > 0", dict(SMALL, temperature=0.0)),
    (VQ, "needs codebook_size >= 2 and dim >= 1, got 1 and 2", dict(SMALL, codebook_size=1)),
    (VQ, "needs .*dim >= 1, got 4 and 0", dict(SMALL, dim=0)),
    (VQ, "needs update .* got 'sgd'", dict(SMALL, update="sgd")),
    (VQ, "needs decay .* got 1.0, 0.0 and 0", dict(SMALL, decay=1.0)),
    (VQ, "needs .*kmeans_iters >= 0, got 0.99, 0.0 and -1", dict(SMALL, kmeans_iters=-1)),
    (VQ, "needs .*revive_below .* got 0.99, 1.5 and 0", dict(SMALL, revive_below=1.5)),
    (Identity, "needs dim >= 1", dict(dim=0)), (KL, "needs dim >= 1", dict(dim=0)),
    (Residual, "needs one or more", dict(quantizers=[])), (Residual, "needs one or more", dict(quantizers=["LFQ"])),
    (Residual, "needs .*one codebook_size", dict(quantizers=[LFQ(bits=2), LFQ(bits=3)])),
    (Residual, "needs discrete .*on the grid, got Identity", dict(quantizers=[Identity(dim=2)])),
    (Grouped, "needs discrete .*on the grid, got KL", dict(quantizers=[LFQ(bits=2), KL(dim=2)])),
    (Residual, "needs .*one dim", dict(quantizers=[LFQ(bits=2), LFQ(bits=2, num_codebooks=2)])),
    (Residual, "needs 2 positive scales", dict(PAIR, scales=[1.0])),
    (Residual, "needs 2 positive scales", dict(PAIR, scales=[1.0, 0.0])),
    (Residual, "needs quantize_dropout in", dict(PAIR, quantize_dropout=1.5))]


def test_every_quantizer_with_indices_has_a_case():
    assert {config["type"] for config, *_ in CASES.values()} | {"Identity", "KL"} == set(TINY["quantizer"])


@pytest.mark.parametrize("case", CASES)
def test_indices_are_those_computed_by_hand_and_decode_to_the_codes(case):
    config, digits, latents, expected = CASES[case]
    quantizer = build_component(QUANTIZERS, config).eval()
    if hasattr(quantizer, "codebook"):
        quantizer.codebook.data.copy_(torch.tensor(ROWS))
    output = quantizer(as_latents(latents))
    assert output.indices[0, 0, 0].tolist() == expected
    assert quantizer.digits == digits
    assert torch.equal(quantizer.codes_from_indices(output.indices), output.codes)


@pytest.mark.parametrize(("quantizer", "weights"), WEIGHTS, ids=lambda value: type(value).__name__)
def test_loss_weights_are_the_papers(quantizer, weights):
    assert quantizer.loss_weights == weights


@pytest.mark.parametrize("kind", [LFQ, BSQ])
def test_signs_have_nothing_to_save(kind):
    assert not kind(bits=24).state_dict()  # 24 bits are the most of one group


@pytest.mark.parametrize(("kind", "message", "arguments"), REFUSED)
def test_arguments_out_of_range_are_refused(kind, message, arguments):
    with pytest.raises(ValueError, match=f"^{kind.__name__} {message}"):
        kind(**arguments)


@pytest.mark.parametrize("config", [pytest.param(dict(arguments, type=name), id=f"{name}-{number}")
                                    for name, choices in TINY["quantizer"].items()
                                    for number, arguments in enumerate(choices)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_on_nonfinite_latents_changes_no_state_and_is_visible_in_codes_or_losses(config, value):
    quantizer = build_component(QUANTIZERS, config)
    before = state_of(quantizer)
    latents = torch.randn(1, quantizer.dim, 1, 2, 2)
    latents[0, :, 0, 1, 1] = value
    output = quantizer(latents)
    torch.testing.assert_close(state_of(quantizer), before, rtol=0, atol=0)
    if value is math.nan:
        assert not all(tensor.isfinite().all() for tensor in (output.codes, *output.losses.values()))
    if output.indices is not None:  # what counts codes in training must not fail
        assert 0 <= output.indices.min() <= output.indices.max() < quantizer.codebook_size


BSQ4 = dict(type="BSQ", bits=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", [
    *[pytest.param(dict(arguments, type=name), id=f"{name}-{number}")
      for name, choices in TINY["quantizer"].items() for number, arguments in enumerate(choices)],
    dict(type="BSQ", bits=18), dict(type="BSQ", bits=18, rotation_trick=True), dict(LFQ2, rotation_trick=True),
    dict(type="VQ", codebook_size=8, dim=4, normalize=True, rotation_trick=True),
    dict(type="Grouped", quantizers=[BSQ4, BSQ4]), dict(type="Residual", quantizers=[BSQ4, BSQ4])], ids=str)
def test_latents_of_every_size_have_finite_gradients(config, dtype):
    quantizer = build_component(QUANTIZERS, config)
    directions = torch.randn(2, quantizer.dim, 2, 3, 3)
    for scale in (0.0, 1e-20, 6e-8, 1e-6, 1e-4, 1.0, 1e4):  # 6e-8 is float16's smallest number
        for share in (1.0, 0.5, 0.0):  # of the positions; the others are 0
            is_zero = torch.rand(2, 1, 2, 3, 3) >= share
            latents = (scale * directions).masked_fill(is_zero, 0.0).to(dtype).requires_grad_()
            output = quantizer(latents)
            (output.codes.float().sum() + sum(output.losses.values())).backward()
            assert all(tensor.isfinite().all() for tensor in (latents.grad, output.codes, *output.losses.values()))


"""Which index a code has: computed by hand for every registered quantizer, since stored tokens depend on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from toolkit.build import build_component
from toolkit.contracts import Quantizer
from toolkit.registry import QUANTIZERS

LFQ2 = dict(type="LFQ", bits=2)
ROWS = [[0.0, 0.0], [0.0, 4.0], [4.0, 0.0], [5.0, 5.0]]  # the codebook of quantizers that learn one
SIGNS = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]]

# Config, sizes of the digits (most significant first), latents (N, d), index of each codebook (N, G).
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], list[list[float]], list[list[int]]]] = {
    # The first of three channels is worth 4, 2, 1, or 1, 2, 4.
    "LFQ": (dict(type="LFQ", bits=3), (2, 2, 2), SIGNS, [[4], [2], [1], [6]]),
    "LFQ, lsb_first": (dict(type="LFQ", bits=3, bit_order="lsb_first"), (2, 2, 2), SIGNS, [[1], [2], [4], [3]]),
    "LFQ, two codebooks": (dict(type="LFQ", bits=2, num_codebooks=2), (2, 2), [[1, -1, -1, 1], [1, 1, 1, -1]],
                           [[2, 1], [3, 2]]),
    "BSQ": (dict(type="BSQ", bits=3), (2, 2, 2), SIGNS, [[4], [2], [1], [6]]),
    # Levels 0..2 of the first channel are worth 1, levels 0..3 of the second 3: 2 + 0, 0 + 9, 1 + 6, 2 + 9.
    "FSQ": (dict(type="FSQ", levels=[3, 4]), (4, 3), [[9, -9], [-9, 9], [0, 0], [9, 9]], [[2], [9], [7], [11]]),
    # Rows by distance; by dot product (5, 5) beats (0, 4) and (4, 0) unless a factor is negative.
    "VQ": (dict(type="VQ", codebook_size=4, dim=2), (4,), [[0.1, 0.2], [0.5, 3.5], [4.1, 0.3], [6, 5]],
           [[0], [1], [2], [3]]),
    "IBQ": (dict(type="IBQ", codebook_size=4, dim=2), (4,), [[-1, -1], [-9, 1], [1, -9], [0.1, 0.1]],
            [[0], [1], [2], [3]]),
    "Grouped": (dict(type="Grouped", quantizers=[LFQ2, LFQ2]), (2, 2), [[1, -1, -1, 1], [1, 1, -1, -1]],
                [[2, 1], [3, 0]]),
    # 0.7 -> 1 leaves -0.3 -> -0.5; -1.8 -> -1 leaves -0.8 -> -0.5. 1.3 -> 1 leaves 0.3 -> 0.5; -0.2 -> -1 leaves 0.8.
    "Residual": (dict(type="Residual", quantizers=[LFQ2, dict(LFQ2, scale=0.5)]), (2, 2), [[0.7, -1.8], [1.3, -0.2]],
                 [[2, 0], [2, 3]]),
}
CONTINUOUS = {"Identity", "KL"}


def test_every_registered_quantizer_has_a_case():
    QUANTIZERS.import_from_location()
    names = {name for name, quantizer in QUANTIZERS.module_dict.items() if quantizer.__module__.startswith("toolkit.")}
    assert names == {config["type"] for config, *_ in CASES.values()} | CONTINUOUS


def build(config: dict[str, Any]) -> Quantizer:
    quantizer = build_component(QUANTIZERS, config).eval()
    if hasattr(quantizer, "codebook"):
        quantizer.codebook.data.copy_(torch.tensor(ROWS))
    return quantizer


@pytest.mark.parametrize("case", CASES)
def test_indices_are_those_computed_by_hand_and_decode_to_the_codes(case):
    config, digits, latents, expected = CASES[case]
    quantizer = build(config)
    output = quantizer(torch.tensor(latents, dtype=torch.float32).T.reshape(1, -1, 1, 1, len(latents)))
    assert output.indices[0, 0, 0].tolist() == expected
    assert quantizer.digits == digits
    assert torch.equal(quantizer.codes_from_indices(output.indices), output.codes)

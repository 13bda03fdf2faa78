"""What every test shares: reproducible randomness, and tiny tokenizers made of real parts."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from toolkit import build_tokenizer
from toolkit.tokenizer import Tokenizer

# Tests run in several processes side by side: one thread each, for them and for what they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_tokenizer() -> Callable[..., Tokenizer]:
    """A MAGVIT-v2 tokenizer of stride 2x4x4 and 2^bits codes in eval mode; keywords change the networks."""

    def make(*, bits: int = 6, num_codebooks: int = 1, quantizer: dict | None = None, encoder: dict | None = None,
             decoder: dict | None = None, **changes) -> Tokenizer:
        network = dict(filters=8, channel_multipliers=(1, 2, 2), num_res_blocks=1, temporal_downsample=(False, True),
                       temporal_kernel=3, num_groups=4) | changes
        return build_tokenizer(dict(
            encoder=dict(type="MAGVIT2Encoder", **network | (encoder or {})),
            decoder=dict(type="MAGVIT2Decoder", **network | (decoder or {})),
            quantizer=quantizer or dict(type="LFQ", bits=bits, num_codebooks=num_codebooks))).eval()

    return make

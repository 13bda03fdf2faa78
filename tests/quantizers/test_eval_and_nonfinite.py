"""Eval mode changes no state; latents that are not finite change no state and get no indices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from toolkit import build_tokenizer
from toolkit.build import build_component
from toolkit.contracts import Quantizer
from toolkit.registry import QUANTIZERS

EMA = dict(type="VQ", codebook_size=8, dim=4, update="ema", decay=0.5, kmeans_iters=3, revive_below=0.5)
CONFIGS: list[dict[str, Any]] = [
    dict(type="BSQ", bits=4), dict(type="FSQ", levels=[3, 4]), dict(type="Grouped", quantizers=[EMA, EMA]),
    dict(type="IBQ", codebook_size=8, dim=4), dict(type="Identity", dim=4), dict(type="KL", dim=4),
    dict(type="LFQ", bits=4), dict(type="Residual", quantizers=[EMA, EMA], quantize_dropout=1.0), EMA,
    dict(EMA, update="gradient"), dict(EMA, normalize=True)]
every_quantizer = pytest.mark.parametrize("config", CONFIGS, ids=[config["type"] for config in CONFIGS])


def test_every_registered_quantizer_is_checked():
    QUANTIZERS.import_from_location()
    names = {name for name, quantizer in QUANTIZERS.module_dict.items() if quantizer.__module__.startswith("toolkit.")}
    assert names == {config["type"] for config in CONFIGS}


def state_of(quantizer: Quantizer) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, those that are not saved too."""
    return {name: tensor.detach().clone() for name, tensor in [*quantizer.named_parameters(),
                                                               *quantizer.named_buffers()]}


@every_quantizer
@pytest.mark.parametrize("trained", [False, True])
def test_eval_mode_changes_no_codebook_and_no_buffer(config, trained):
    quantizer = build_component(QUANTIZERS, config)
    if trained:
        quantizer(torch.randn(2, quantizer.dim, 1, 4, 4))
    before = state_of(quantizer.eval())
    for _ in range(3):
        quantizer(5 + torch.randn(2, quantizer.dim, 1, 4, 4))  # also with gradients enabled
    torch.testing.assert_close(state_of(quantizer), before, rtol=0, atol=0)


@every_quantizer
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


@pytest.mark.parametrize("config", [config for config in CONFIGS if config["type"] not in ("Identity", "KL")],
                         ids=lambda config: config["type"])
def test_tokenize_refuses_latents_that_are_nan(config):
    network = dict(filters=8, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,), num_groups=4)
    tokenizer = build_tokenizer(dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=config,
                                     decoder=dict(type="MAGVIT2Decoder", **network)))
    pixels = torch.zeros(1, 3, 1, 8, 8)
    tokenizer.tokenize(pixels)
    for parameter in tokenizer.encoder.parameters():
        parameter.data.fill_(math.nan)
    with pytest.raises(ValueError, match="finite"):
        tokenizer.tokenize(pixels)

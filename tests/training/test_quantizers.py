"""Every quantizer in a run without another change; bypass, frozen codebooks, the collapse warning."""

import logging
from pathlib import Path

import pytest
import torch
from training.tiny import assert_equal, build, tensors_of, tiny_config, train, train_lines

from toolkit import build_tokenizer, load_config, load_tokenizer
from toolkit.config import parse_overrides
from toolkit.contracts import Quantizer
from toolkit.registry import QUANTIZERS

CONFIGS = Path(__file__).parents[2] / "configs"

EMA = dict(type="VQ", codebook_size=32, dim=4, update="ema", kmeans_iters=3, revive_below=0.2)
CHOICES = {
    "LFQ": dict(type="LFQ", bits=6), "BSQ": dict(type="BSQ", bits=6), "FSQ": dict(type="FSQ", levels=[8, 8, 8]),
    "VQ": EMA, "IBQ": dict(type="IBQ", codebook_size=32, dim=4), "Identity": dict(type="Identity", dim=4),
    "KL": dict(type="KL", dim=4),
    "Residual": dict(type="Residual", quantizers=[dict(type="LFQ", bits=4), dict(type="LFQ", bits=4, scale=0.5)],
                     quantize_dropout=0.5),
    "Grouped": dict(type="Grouped", quantizers=[dict(type="LFQ", bits=4)] * 2)}


def exchanged(clips, quantizer: dict, **changes) -> dict:
    return tiny_config(clips, **{"training__max_steps": 2, "tokenizer__quantizer": dict(_delete_=True, **quantizer),
                                 **changes})


def test_there_is_a_choice_for_every_built_in_quantizer():
    QUANTIZERS.import_from_location()
    built_in = {name for name, cls in QUANTIZERS.module_dict.items() if cls.__module__.startswith("toolkit.")}
    assert built_in == set(CHOICES)


@pytest.mark.parametrize("name", CHOICES)
def test_every_quantizer_trains_and_is_saved_without_another_change(clips, tmp_path, name):
    trainer = train(exchanged(clips, CHOICES[name], metrics=[dict(type="PSNR"), dict(type="Codebook")]), tmp_path)
    compared = trainer.compare()["video"]
    assert ("thumbnail" in compared) == ("codebook_usage" in compared["tokenizer"]) == bool(
        trainer.tokenizer.network.codebook_size)
    pixels = torch.zeros(1, 3, 5, 16, 16)
    again = load_tokenizer(tmp_path / "tokenizer")
    assert torch.equal(again(pixels).codes, trainer.evaluated_tokenizer.eval()(pixels).codes)
    lines = train_lines(tmp_path)
    assert all(set(again.quantizer.loss_weights) <= set(line) for line in lines) and len(lines) == 2


def test_resumed_run_continues_with_its_codebook(clips, tmp_path):
    config = exchanged(clips, EMA, training__checkpoints=dict(every=1, keep=None))
    whole = train(config, tmp_path / "whole")
    train({**config, "training": {**config["training"], "max_steps": 1}}, tmp_path / "half")
    resumed = train(config, tmp_path / "half", resume=True)
    assert resumed.step == 2
    assert_equal(*(tensors_of(trainer.tokenizer.network.quantizer) for trainer in (whole, resumed)))


@pytest.mark.parametrize("trainable", [["encoder", "decoder"], ["encoder"], ["decoder"]])
def test_frozen_codebook_of_averages_stays_bit_for_bit(clips, tmp_path, trainable):
    nested = dict(type="Residual", quantizers=[EMA, EMA])
    trainer = build(exchanged(clips, nested, training__trainable=trainable), tmp_path)
    before = tensors_of(trainer.tokenizer.network.quantizer)
    trainer.run()
    assert_equal(before, tensors_of(trainer.tokenizer.network.quantizer))


def test_named_child_learns_and_its_sibling_does_not(clips, tmp_path):
    nested = dict(type="Residual", quantizers=[EMA, EMA])
    trainer = build(exchanged(clips, nested, training__trainable=["encoder", "quantizer.quantizers.1"]), tmp_path)
    quantizer = trainer.tokenizer.network.quantizer
    frozen = {name: module.frozen for name, module in quantizer.named_modules() if isinstance(module, Quantizer)}
    assert frozen == {"": True, "quantizers.0": True, "quantizers.1": False}


def test_decoder_gets_latents_first_and_codes_at_last(clips, tmp_path):
    trainer = build(exchanged(clips, CHOICES["LFQ"], training__quantization=[(0, 0.0), (2, 1.0)],
                              training__max_steps=3), tmp_path)
    seen = []
    trainer.tokenizer.network.decoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().clone()) if trainer.tokenizer.network.training else None)
    trainer.run()
    assert [line["quantization"] for line in train_lines(tmp_path)] == [0.0, 0.5, 1.0]
    assert not (seen[0].abs() == 1).any() and (seen[2].abs() == 1).all()
    halfway = seen[1]  # latents half the way to their signs keep them, and lie beyond a half
    assert (halfway.abs() >= 0.5).all() and not (halfway.abs() == 1).all()


def test_evaluation_is_fully_quantized_whatever_the_schedule(make_tokenizer):
    tokenizer = make_tokenizer()
    pixels = torch.rand(1, 3, 1, 8, 8) * 2 - 1
    expected = tokenizer(pixels).reconstruction
    tokenizer.quantization = 0.0
    assert torch.equal(tokenizer.eval()(pixels).reconstruction, expected)
    output = tokenizer.train()(pixels)
    assert torch.equal(output.codes, output.latents)


def test_collapsed_codebook_is_logged_as_a_warning(clips, tmp_path, caplog):
    trainer = build(exchanged(clips, dict(type="VQ", codebook_size=64, dim=4)), tmp_path)
    trainer.tokenizer.network.quantizer.codebook.data[1:] += 1e3  # out of reach
    with caplog.at_level(logging.WARNING):
        trainer.run()
    alarms = [record.message for record in caplog.records if "has collapsed" in record.message]
    assert any("validation" in alarm for alarm in alarms) and any("training" in alarm for alarm in alarms)
    assert all("step 2, video" in alarm and "63 are never used" in alarm for alarm in alarms)


def test_codebook_of_averages_learns_behind_a_fixed_encoder_if_named(clips, tmp_path):
    trainer = build(exchanged(clips, EMA, training__trainable=["quantizer", "decoder"]), tmp_path)
    tokenizer = trainer.tokenizer.network
    encoder, codebook = tensors_of(tokenizer.encoder), tokenizer.quantizer.codebook.clone()
    trainer.run()
    assert not torch.equal(tokenizer.quantizer.codebook, codebook)
    assert_equal(tensors_of(tokenizer.encoder), encoder)


FROM_THE_COMMAND_LINE = {
    "FSQ": ["levels=[8,8,8]"], "BSQ": ["bits=12"], "LFQ": ["bits=9", "num_codebooks=2"],
    "VQ": ["codebook_size=64", "dim=4"], "IBQ": ["codebook_size=64", "dim=4"], "Identity": ["dim=4"], "KL": ["dim=4"],
    "Residual": ["quantizers=[{'type': 'FSQ', 'levels': [5, 5]}, {'type': 'FSQ', 'levels': [5, 5]}]"],
    "Grouped": ["quantizers=[{'type': 'BSQ', 'bits': 6}, {'type': 'BSQ', 'bits': 6}]"]}


@pytest.mark.parametrize("name", CHOICES)
def test_demo_takes_any_quantizer_from_the_command_line_or_a_child_config(tmp_path, name):
    words = [f"tokenizer.quantizer.{word}" for word in ["_delete_=True", f"type={name}", *FROM_THE_COMMAND_LINE[name]]]
    exchanged_by_words = load_config(CONFIGS / "demo_video.py", parse_overrides(words))
    built = build_tokenizer(exchanged_by_words.tokenizer)
    assert built.quantizer.type_name == name
    child = tmp_path / "child.py"
    child.write_text(f"_base_ = {str(CONFIGS / 'demo_video.py')!r}\n"
                     f"tokenizer = dict(quantizer={dict(_delete_=True, **built.quantizer.config)!r})\n")
    again = build_tokenizer(load_config(child).tokenizer)
    assert again.config == built.config
    output = again(torch.zeros(1, 3, 1, 16, 16))
    assert output.reconstruction.shape == (1, 3, 1, 16, 16)


@pytest.mark.parametrize("name", sorted(CHOICES.keys() - {"LFQ"}))
def test_stale_argument_is_named_with_advice(name):
    words = [f"tokenizer.quantizer.{word}" for word in [f"type={name}", *FROM_THE_COMMAND_LINE[name]]]
    config = load_config(CONFIGS / "demo_video.py", {**parse_overrides(words), "tokenizer.quantizer.scale": 1.0})
    with pytest.raises(TypeError, match=rf"quantizer '{name}': unexpected .*'scale'.*; it takes \(.*\)\. If the config "
                                        r"inherits another type through _base_, write quantizer=dict\(_delete_=True"):
        build_tokenizer(config.tokenizer)

"""Training from an existing tokenizer: inflation, frozen components, discriminators."""

import copy
import json
import logging
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from hub_cache import add_commit, use_cache
from training import tiny
from training.tiny import assert_equal, build, tensors_of, tiny_config, train

from toolkit import build_tokenizer, load_tokenizer
from toolkit.config import ConfigError
from toolkit.networks import StyleGANDiscriminator
from toolkit.saving import save_component
from toolkit.training.initialization import initialize
from toolkit.training.settings import Settings

OPTIONS = {
    "o2": ({}, {}, {}, {}),
    "praxis": (dict(padding="replicate", norm_eps=1e-6), dict(downsample_kernel=4, first_conv_bias=False), {}, {}),
    "open_magvit2": (dict(norm_eps=1e-6), dict(first_conv_bias=False),
                     dict(adaptive_norm="pooled", kept_frame="first"), dict(norm_scope="clip"))}


def pair(family: str, downsample: tuple[bool, ...]):
    """An image tokenizer and its video version, both with random weights."""
    shared, encoder, decoder, of_video = OPTIONS[family]
    shared = dict(filters=8, channel_multipliers=(1, 2, 2), num_res_blocks=1, num_groups=4, **shared)
    networks = (dict(temporal_downsample=(False, False), temporal_kernel=1),
                dict(temporal_downsample=downsample, temporal_kernel=3, **of_video))
    return [build_tokenizer(dict(encoder=dict(type="MAGVIT2Encoder", **shared, **network, **encoder),
                                 quantizer=dict(type="LFQ", bits=6),
                                 decoder=dict(type="MAGVIT2Decoder", **shared, **network, **decoder))).eval()
            for network in networks]


@pytest.mark.parametrize("downsample", [(False, True), (True, True), (True, False)], ids=str)
@pytest.mark.parametrize("family", ["o2", "praxis", "open_magvit2"])
@torch.no_grad()
def test_inflated_network_gives_the_image_networks_latents_indices_and_pixels(family, downsample):
    image, video = pair(family, downsample)
    initialize(video, image)
    pixels = torch.rand(2, 3, 1, 16, 24) * 2 - 1
    expected, actual = image(pixels), video(pixels)
    torch.testing.assert_close(actual.latents, expected.latents, rtol=1e-5, atol=1e-6)
    assert torch.equal(actual.indices, expected.indices)
    torch.testing.assert_close(actual.reconstruction, expected.reconstruction, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_still_clip_through_the_inflated_network_is_the_image_in_every_frame():
    image, video = pair("o2", (False, True))
    initialize(video, image)
    still = (torch.rand(1, 3, 1, 16, 16) * 2 - 1).repeat(1, 1, 5, 1, 1)
    expected = image(still[:, :, :1]).reconstruction.repeat(1, 1, 5, 1, 1)
    torch.testing.assert_close(video(still).reconstruction, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [dict(filters=16), dict(num_res_blocks=2), dict(channel_multipliers=(1, 2, 4))])
def test_another_network_is_refused_and_nothing_changes(make_tokenizer, change):
    tokenizer, source = make_tokenizer(), make_tokenizer(**change)
    before = tensors_of(tokenizer)
    with pytest.raises(ConfigError, match=r"init_from does not fit the tokenizer: .*(needed|not in the tokenizer)"):
        initialize(tokenizer, source)
    assert_equal(before, tensors_of(tokenizer))


def test_weights_of_a_network_with_another_padding_load_with_a_warning(make_tokenizer, caplog):
    tokenizer, source = make_tokenizer(), make_tokenizer(padding="replicate")
    initialize(tokenizer, source)
    assert "padding='zeros' (checkpoint: 'replicate')" in caplog.text


@torch.no_grad()
def test_image_weights_load_with_a_warning_where_a_video_network_normalises_otherwise(make_tokenizer, caplog):
    image = dict(temporal_kernel=1, temporal_downsample=(False, False))
    initialize(make_tokenizer(norm_scope="clip"), make_tokenizer(**image))  # of one frame they are the same
    assert not caplog.text
    initialize(make_tokenizer(norm_scope="position"), make_tokenizer(**image))
    assert "norm_scope='position' (checkpoint: 'frame')" in caplog.text


def run(clips, work_dir, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)  # which keeps its first precision
    return train(tiny_config(clips, gan=True, **changes), work_dir)


def part(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def test_training_starts_from_the_source_weights_with_fresh_optimizer_and_average(clips, tmp_path):
    run(clips, tmp_path / "first")
    source = tmp_path / "first" / "tokenizer"
    trainer = build(tiny_config(clips, gan=True, training__init_from=str(source)), tmp_path / "second")
    for network in (trainer.tokenizer.network, trainer.evaluated_tokenizer):
        assert_equal(tensors_of(network), tensors_of(source / "model.safetensors"))
    assert not trainer.tokenizer.optimizer.state


def test_without_a_tokenizer_section_the_given_one_is_trained_and_resumed_without_its_source(
        clips, tmp_path, make_tokenizer):
    source = make_tokenizer(temporal_downsample=(True, False), bits=5)
    source.save_pretrained(tmp_path / "source")
    config = tiny_config(clips, gan=True, training__init_from=str(tmp_path / "source"))
    config.pop("tokenizer")
    first = train(copy.deepcopy(config), tmp_path / "run")
    assert first.tokenizer.network.config == source.config
    assert load_tokenizer(tmp_path / "run" / "tokenizer").codebook_size == 32
    assert "MAGVIT2Encoder" in (tmp_path / "run" / "config.py").read_text()
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    AcceleratorState._reset_state(reset_partial_state=True)
    again = build(config, tmp_path / "run", resume=True)
    assert again.step == 4
    assert_equal(tensors_of(again.tokenizer.network), tensors_of(first.tokenizer.network))


def test_video_run_starts_from_an_image_run(clips, tmp_path):
    image = {f"tokenizer__{name}": dict(temporal_kernel=1, temporal_downsample=(False,))
             for name in ("encoder", "decoder")}
    first = run(clips, tmp_path / "image", **image)
    second = build(tiny_config(clips, training__init_from=str(tmp_path / "image" / "tokenizer")), tmp_path / "video")
    pixels = torch.rand(1, 3, 1, 16, 16)
    with torch.no_grad():
        expected, actual = first.evaluated_tokenizer.eval()(pixels), second.evaluated_tokenizer.eval()(pixels)
    assert torch.equal(actual.indices, expected.indices)
    torch.testing.assert_close(actual.reconstruction, expected.reconstruction, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_the_decoder_leaves_encoder_and_token_ids_as_they_were(clips, tmp_path, precision):
    run(clips, tmp_path / "first")
    source, folder = tmp_path / "first" / "tokenizer", tmp_path / "second" / "tokenizer"
    run(clips, tmp_path / "second", training__init_from=str(source), training__trainable=["decoder"],
        training__mixed_precision=precision)
    before, after = (tensors_of(path / "model.safetensors") for path in (source, folder))
    for name in ("encoder", "quantizer"):
        assert_equal(part(before, name), part(after, name))
    assert any(not torch.equal(tensor, after[name]) for name, tensor in part(before, "decoder").items())
    pixels = torch.rand(1, 3, 5, 16, 16)
    assert torch.equal(load_tokenizer(source).tokenize(pixels), load_tokenizer(folder).tokenize(pixels))


def test_training_the_encoder_alone_leaves_the_decoder_as_it_was_and_still_has_the_quantizers_losses(clips, tmp_path):
    trained = tensors_of(run(clips, tmp_path / "run", training__trainable=["encoder"]).tokenizer.network)
    fresh = tensors_of(build(tiny_config(clips, gan=True), tmp_path / "fresh").tokenizer.network)
    assert_equal(part(trained, "decoder"), part(fresh, "decoder"))
    assert any(not torch.equal(tensor, fresh[name]) for name, tensor in part(trained, "encoder").items())
    assert "commitment" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("names", "message"), [
    (["decodr"], "got 'decodr'"), (["quantizer"], "leaves nothing to train"), ([], r"a list of names"),
    ("decoder", "a list of names")])
def test_components_that_cannot_be_trained_are_refused(clips, tmp_path, names, message):
    with pytest.raises(ConfigError, match=message):
        build(tiny_config(clips, training__trainable=names), tmp_path)


@pytest.mark.parametrize("fits", [True, False])
def test_discriminator_of_the_source_is_loaded_if_its_tensors_match(clips, tmp_path, caplog, fits):
    caplog.set_level(logging.INFO)
    build_tokenizer(tiny_config(clips)["tokenizer"]).save_pretrained(tmp_path / "source")
    options = {name: value for name, value in tiny.DISCRIMINATOR.items() if name != "type"}
    expected = StyleGANDiscriminator(**options | ({} if fits else {"filters": 16}))
    save_component(expected, tmp_path / "source" / "discriminator")
    trainer = build(tiny_config(clips, gan=True, training__init_from=str(tmp_path / "source")), tmp_path / "second")
    (actual,) = trainer.discriminators.values()
    same = all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in actual.network.state_dict().items()
               if tensor.shape == expected.state_dict()[name].shape)
    assert same == fits and ("starts from" in caplog.text) == fits
    assert ("keeps its random weights" in caplog.text) != fits


def test_the_commit_that_a_run_starts_from_is_in_its_metadata_also_after_a_resume(
        clips, tmp_path, monkeypatch, make_tokenizer):
    cache = use_cache(tmp_path / "hub", monkeypatch)
    make_tokenizer().save_pretrained(tmp_path / "source")
    add_commit(cache, "user/name", "c" * 40, tmp_path / "source", subfolder="007", refs=("1.0",))
    config = tiny_config(clips, training__init_from="user/name", training__init_revision="1.0",
                         training__init_subfolder="007", training__max_steps=1)
    config.pop("tokenizer")
    train(copy.deepcopy(config), tmp_path / "run")
    expected = {"repo": "user/name", "revision": "1.0", "subfolder": "007", "commit": "c" * 40}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["init_source"] == expected
    shutil.rmtree(cache)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert build(config, tmp_path / "run", resume=True).step == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["init_source"] == expected
    build(tiny_config(clips), tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "run.json").read_text())["init_source"] is None


@pytest.mark.parametrize("changes", [dict(init_revision=1.0, init_from="user/name"), dict(init_subfolder="a")])
def test_a_revision_that_is_no_text_or_without_its_tokenizer_is_refused(changes):
    name = next(iter(changes))
    with pytest.raises(ConfigError, match=rf"training\.{name} must be text, with init_from"):
        Settings(max_steps=1, **changes)

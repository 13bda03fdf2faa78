"""Configs become objects; a saved directory becomes a tokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_cache import add_commit, answering, use_cache
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from toolkit import build_tokenizer, load_tokenizer
from toolkit.build import build_component, build_metrics
from toolkit.config import ConfigError
from toolkit.contracts import Quantizer
from toolkit.quantizers import LFQ
from toolkit.registry import Registry, UnknownComponentError
from toolkit.tokens import tokenizer_hash

NETWORK = dict(filters=4, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,))


def config_of(**quantizer) -> dict:
    return dict(encoder=dict(type="MAGVIT2Encoder", **NETWORK), quantizer=dict(type="LFQ", **quantizer),
                decoder=dict(type="MAGVIT2Decoder", **NETWORK))


class Nest(Quantizer):
    def __init__(self, *, quantizers: list[Quantizer] = (), first: Quantizer | None = None):
        super().__init__()
        self.quantizers, self.first = quantizers, first

    def quantize(self, z):
        raise NotImplementedError

    def lookup(self, indices):
        raise NotImplementedError


@pytest.mark.parametrize(("quantizer", "dim"), [(dict(bits=5), 5), (dict(bits=3, num_codebooks=4), 12)])
def test_widths_follow_the_quantizer_and_the_config_stays_as_it_was(quantizer, dim):
    config = config_of(**quantizer)
    before = json.dumps(config)
    tokenizer = build_tokenizer(config)
    assert tokenizer.encoder.out_channels == tokenizer.decoder.in_channels == tokenizer.quantizer.dim == dim
    assert json.dumps(config) == before


def without(key: str) -> dict:
    return {name: value for name, value in config_of(bits=5).items() if name != key}


@pytest.mark.parametrize(("config", "words"), [
    *((without(key), f"tokenizer needs {key}, got ") for key in ("encoder", "quantizer", "decoder")),
    (config_of(bits=5) | {"quantiser": {}}, r"tokenizer has no key 'quantiser' \(did you mean 'quantizer'\?\)"),
    *((config, r"tokenizer is dict\(encoder=..., quantizer=..., decoder=...\), got")
      for config in (None, [], "LFQ", 3))])
def test_a_tokenizer_config_without_its_three_keys_is_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        build_tokenizer(config)


def test_children_are_built_innermost_first():
    registry = Registry("quantizer", contracts=(Quantizer,), location="toolkit.quantizers")
    for cls in (Nest, LFQ):
        registry.register_module()(cls)
    inner = dict(type="Nest", quantizers=[dict(type="LFQ", bits=2)])
    nest = build_component(registry, dict(type="Nest", quantizers=[dict(type="LFQ", bits=3), inner],
                                     first=dict(type="LFQ", bits=4)))
    assert [type(q) for q in nest.quantizers] == [LFQ, Nest] and nest.quantizers[0].bits == 3
    assert nest.quantizers[1].quantizers[0].bits == 2 and nest.first.bits == 4
    assert build_component(registry, nest.config).config == nest.config
    with pytest.raises(UnknownComponentError):
        build_component(registry, dict(type="Nest", quantizers=[dict(type="os.getcwd")]))


def test_metrics_get_the_tokenizers_codebook_where_they_take_one():
    tokenizer = build_tokenizer(config_of(bits=5, num_codebooks=2))
    psnr, codebook = build_metrics([dict(type="PSNR"), dict(type="Codebook")], tokenizer)
    assert codebook.config == {"type": "Codebook", "codebook_size": 32, "num_codebooks": 2, "digits": [2] * 5,
                               "fps": None}
    assert psnr.config == {"type": "PSNR"}


@pytest.fixture
def saved(tmp_path, make_tokenizer) -> Path:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@torch.no_grad()
def test_saved_tokenizer_gives_the_same_tokens_and_pixels_bit_for_bit(saved, make_tokenizer):
    original = make_tokenizer()
    original.save_pretrained(saved)
    loaded = load_tokenizer(saved)
    pixels = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    assert not loaded.training and loaded.config == original.config
    assert torch.equal(loaded.tokenize(pixels), original.tokenize(pixels))
    assert torch.equal(loaded(pixels).reconstruction, original(pixels).reconstruction)


def test_another_process_with_no_config_reads_the_same_tokens(saved, tmp_path):
    pixels = torch.rand(1, 3, 3, 8, 8) * 2 - 1
    save_file({"pixels": pixels}, tmp_path / "pixels.safetensors")
    code = ("import sys, toolkit\nfrom safetensors.torch import load_file\n"
            "print(toolkit.load_tokenizer(sys.argv[1]).tokenize(load_file(sys.argv[2])['pixels']).flatten().tolist())")
    done = subprocess.run([sys.executable, "-c", code, str(saved), str(tmp_path / "pixels.safetensors")],
                          capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == load_tokenizer(saved).tokenize(pixels).flatten().tolist()


def test_directory_has_two_files_and_either_path_loads_it(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    for path in (str(saved), saved / "config.json", saved / "model.safetensors"):
        assert load_tokenizer(path).config == json.loads((saved / "config.json").read_text())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_one_clear_error(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"no directory with config.json and model.safetensors"):
        load_tokenizer(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", None])
def test_damaged_file_is_one_clear_error(saved, name, content):
    path = saved / name
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(ValueError, match=f"tokenizer {saved}: config.json or model.safetensors is damaged"):
        load_tokenizer(saved)


@pytest.mark.parametrize("content", ["null", "[]", "3", '"x"', '{"encoder": {}}'])
def test_config_file_of_something_else_is_one_clear_error(saved, content):
    (saved / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"^tokenizer "):
        load_tokenizer(saved)


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: w.update(extra=torch.zeros(3)), r"extra not in config / \(3,\)"),
    (lambda w: w.pop("encoder.conv_in.bias"), r"encoder.conv_in.bias \(8,\) / not in weights"),
    (lambda w: w.update({"encoder.conv_in.bias": torch.zeros(7)}), r"encoder.conv_in.bias \(8,\) / \(7,\)"),
    (lambda w: w.update({"encoder.conv_in.bias": torch.zeros(1)}), r"encoder.conv_in.bias \(8,\) / \(1,\)"),
])
def test_weights_that_do_not_fit_are_named_with_both_shapes(saved, change, message):
    weights = load_file(saved / "model.safetensors")
    change(weights)
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(ValueError, match=rf"config and weights disagree on 1 tensors: {message}"):
        load_tokenizer(saved)


def test_stale_argument_in_a_config_file_is_named(saved):
    config = json.loads((saved / "config.json").read_text())
    config["quantizer"]["levels"] = [8]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(TypeError, match="quantizer 'LFQ': unexpected 'levels'"):
        load_tokenizer(saved)


def test_path_that_is_neither_a_directory_nor_on_the_hub_is_one_clear_error(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for path in (tmp_path, tmp_path / "none", "a/b/c", "./none", "none", "user/no-such-tokenizer", "bad name/no?pe"):
        with pytest.raises(FileNotFoundError, match="no tokenizer at"):
            load_tokenizer(path)


@pytest.fixture
def hub(tmp_path, monkeypatch, make_tokenizer) -> dict[str, Path]:
    """A cached repository user/name: main and v1 are other commits, v1 has a tokenizer in sub/deep too."""
    cache, folders = use_cache(tmp_path / "hub", monkeypatch), {}
    for bits in (5, 6, 7):
        make_tokenizer(bits=bits).save_pretrained(tmp_path / f"{bits}")
        folders[bits] = tmp_path / f"{bits}"
    add_commit(cache, "user/name", "a" * 40, folders[5], refs=("main",))
    add_commit(cache, "user/name", "b" * 40, folders[6], refs=("v1",))
    add_commit(cache, "user/name", "b" * 40, folders[7], subfolder="sub/deep")
    return folders


@pytest.mark.parametrize(("options", "bits", "commit"), [
    ({}, 5, "a"), (dict(revision="main"), 5, "a"), (dict(revision="v1"), 6, "b"), (dict(revision="b" * 40), 6, "b"),
    (dict(revision="v1", subfolder="sub/deep"), 7, "b"), (dict(revision="v1", subfolder="sub/deep/"), 7, "b"),
    (dict(subfolder=""), 5, "a"), (dict(revision="v1", token="hf_x"), 6, "b")])
def test_hub_id_takes_a_revision_and_a_subfolder_and_keeps_the_commit(hub, options, bits, commit):
    tokenizer = load_tokenizer("user/name", **options)
    assert tokenizer.codebook_size == 2**bits
    subfolder = "sub/deep" if bits == 7 else None
    assert tokenizer.source.metadata == {
        "repo": "user/name", "revision": options.get("revision"), "subfolder": subfolder, "commit": commit * 40}
    assert tokenizer_hash(tokenizer.source.directory) == tokenizer_hash(hub[bits])
    assert load_tokenizer(tokenizer.source.directory).config == tokenizer.config


@pytest.mark.parametrize(("path", "options", "words"), [
    ("user/name@v1", {}, r"user/name@v1: .*no hub id.*; a revision is given as revision='v1' \(--revision v1, "),
    ("user/name/sub/deep", {}, r"no hub id.*; a subfolder is given as subfolder='sub/deep' \(--subfolder sub/deep"),
    ("https://huggingface.co/user/name", {}, r"no hub id \(USER/NAME\); .* is given without the address before it"),
    ("hf://user/name", {}, "without the address before it"),
    ("user/name/sub@v1", {}, r"revision='v1' .*; a subfolder is given as subfolder='sub'"),
    ("user/name", dict(revision="v2"), r"user/name at revision 'v2': no such directory, and the hub did not give it"),
    ("user/name", dict(revision="c" * 40), r"at revision 'c+': no such directory, and the hub did not give it"),
    ("user/name", dict(subfolder="no"), r"commit a+ has no config.json and model.safetensors in its subfolder 'no'"),
    ("user/other", {}, r"user/other: no such directory, and the hub did not give it .*HF_HUB_OFFLINE")])
def test_what_a_cached_hub_repository_lacks_is_one_clear_error(hub, path, options, words):
    with pytest.raises(FileNotFoundError, match=f"^no tokenizer at {words}" if path in words else words) as caught:
        load_tokenizer(path, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_revision_is_not_the_default_branch(hub):
    with pytest.raises(ValueError, match="revision of user/name is a branch, a tag or a commit, got ''; name one"):
        load_tokenizer("user/name", revision="")


def test_a_repository_with_its_tokenizer_in_a_subfolder_says_how_to_name_it(hub, tmp_path):
    add_commit(tmp_path / "hub", "user/deep", "d" * 40, hub[5], subfolder="tokenizer", refs=("main",))
    with pytest.raises(FileNotFoundError, match=r"in its top folder; a subfolder is given as subfolder="):
        load_tokenizer("user/deep")
    assert load_tokenizer("user/deep", subfolder="tokenizer").source.commit == "d" * 40


@pytest.mark.parametrize(("status", "code", "words"), [
    (404, "RepoNotFound", "the hub has no such repository, or a private one; .*hf auth login"),
    (401, "RepoNotFound", "the hub has no such repository, or a private one; .*hf auth login"),
    (401, "", "the hub did not give it .*401"),
    (404, "RevisionNotFound", "user/none at revision 'v3': the repository has no such revision; name a branch"),
    (403, "GatedRepo", "it is gated; accept its terms at https://huggingface.co/user/none, then hf auth login"),
    (403, "", "the hub did not give it .*403")])
def test_an_error_of_the_hub_is_one_clear_error(tmp_path, monkeypatch, status, code, words):
    use_cache(tmp_path, monkeypatch, offline=False)
    with answering(status, code, monkeypatch) as tokens, pytest.raises(FileNotFoundError, match=words) as caught:
        load_tokenizer("user/none", revision="v3", token="hf_secret")
    assert tokens and set(tokens) == {"Bearer hf_secret"}
    assert "\n" not in str(caught.value) and "hf_secret" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_one_clear_error_unless_the_tokenizer_is_cached(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at user/other: .*the hub did not give it .*connection"):
        load_tokenizer("user/other")
    assert load_tokenizer("user/name", revision="v1").source.commit == "b" * 40


def test_a_local_folder_takes_a_subfolder_and_the_home_sign_but_no_revision_or_token(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path, subfolder in (("~/tokenizer", None), ("~", "tokenizer"), (tmp_path, "tokenizer/")):
        loaded = load_tokenizer(path, subfolder=subfolder)
        assert loaded.source.directory == saved and loaded.source.metadata is None
    assert tokenizer_hash("~/tokenizer") == tokenizer_hash("~", subfolder="tokenizer") == tokenizer_hash(saved)
    for options in (dict(revision="main"), dict(token="hf_x"), dict(token=False)):
        with pytest.raises(ValueError, match="is a local folder, and only a tokenizer of the hub has a revision"):
            load_tokenizer(saved, **options)
    with pytest.raises(FileNotFoundError, match=r"tokenizer/other: it is no directory with config.json"):
        load_tokenizer(saved, subfolder="other")


@pytest.mark.parametrize("subfolder", ["../tokenizer", "/etc", "a/../../b"])
def test_a_subfolder_outside_of_the_folder_is_refused(hub, saved, subfolder):
    for path in (saved, "user/name"):
        with pytest.raises(ValueError, match="the subfolder of a tokenizer is a folder below"):
            load_tokenizer(path, subfolder=subfolder)


def test_two_metrics_with_one_score_are_refused(make_tokenizer):
    with pytest.raises(ConfigError, match="compute the score 'psnr': PSNR and PSNR; remove one"):
        build_metrics([dict(type="PSNR"), dict(type="PSNR")], make_tokenizer())


@pytest.mark.parametrize("config", ["dict(type=PSNR)", "PSNR", None, ["type"], {"net": "alex"}])
def test_a_metric_that_is_no_dict_with_a_type_is_refused_in_words(make_tokenizer, config):
    with pytest.raises(TypeError, match=r"a metric is configured as dict\(type='Name', ...\), got"):
        build_metrics([config], make_tokenizer())

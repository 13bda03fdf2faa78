"""Nothing of a published artefact is executed, nothing is written outside of the output, and the error names the file.

Every payload here does what it threatens where it is unpickled or run without care, which the first test shows.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import peak_memory
import pytest
import torch
from data.test_shards import npy, write_tar
from engine.hostile import FORMATS, PAYLOADS, Calls, plain, refused, refused_by_tool
from mmengine.config import Config
from tools.commands import ENVIRONMENT, save_tokenizer
from training.tiny import tiny_config

from toolkit import assets, load_tokenizer
from toolkit.assets import read_arrays, weights_path
from toolkit.build import build_trainer, load_discriminator
from toolkit.interop import CheckpointError, load_checkpoint
from toolkit.interop.files import read_file
from toolkit.networks import PatchGANDiscriminator
from toolkit.pretrained.classifiers import classifier
from toolkit.saving import save_component
from toolkit.tokens import read_tokens

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), filters=4, channel_multipliers=(1, 2, 2),
                          temporal_downsample=(False, True))


@pytest.fixture
def folder(tokenizer_folder, tmp_path) -> Path:
    """A tokenizer to spoil."""
    return Path(shutil.copytree(tokenizer_folder, tmp_path / "tokenizer"))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_run_if_unpickled_without_care(payload, tmp_path):
    content = pickle.dumps(PAYLOADS[payload](str(tmp_path / "marker")))
    with contextlib.suppress(AttributeError):  # of the one that would make a tensor of what the call returns
        pickle.loads(content)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_foreign_checkpoint_runs_nothing(payload, write, tmp_path, marker):
    for suffix in (".pt", ".ckpt", ".safetensors", ".npz"):
        path = tmp_path / f"evil{suffix}"
        write(PAYLOADS[payload](str(marker)), path)
        refused(load_checkpoint, path, named=path)
    refused_by_tool("convert_checkpoint", tmp_path / "evil.pt", tmp_path / "out", named=tmp_path / "evil.pt")
    refused(classifier, "test_vit", weights=tmp_path / "evil.pt", named=tmp_path / "evil.pt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_tokenizer_or_discriminator_with_a_pickle_for_a_file_runs_nothing(payload, write, folder, tmp_path, marker):
    for name in ("config.json", "model.safetensors"):
        write(PAYLOADS[payload](str(marker)), folder / name)
        for path in (folder, folder / name):
            refused(load_tokenizer, path, named=path)
        refused_by_tool("reconstruct", tmp_path, "--tokenizer", folder, "--output", tmp_path / "out", named=folder)
        save_component(PatchGANDiscriminator(filters=8), tmp_path / "discriminator")
        write(PAYLOADS[payload](str(marker)), tmp_path / "discriminator" / name)
        refused(load_discriminator, tmp_path / "discriminator", named=tmp_path / "discriminator")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_arrays_of_assets_and_of_token_shards_run_nothing(payload, tmp_path, marker, monkeypatch):
    content = PAYLOADS[payload](str(marker))
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(content))
    refused(read_arrays, tmp_path / "evil.ckpt", named=tmp_path / "evil.ckpt")
    objects = npy(np.array([PAYLOADS[payload](str(marker))], dtype=object)).getvalue()
    np.savez(tmp_path / "evil.npz", **{"encoder/conv/w": np.array([content], dtype=object)})
    refused(load_checkpoint, tmp_path / "evil.npz", named=tmp_path / "evil.npz")
    write_tar(tmp_path / "evil.tar", {"a.indices.npy": objects, "a.json": b"{}"})
    refused(list, read_tokens(tmp_path / "evil.tar"), named=tmp_path / "evil.tar")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path))
    monkeypatch.setitem(assets.ASSETS, "evil", assets.ASSETS["weights/lpips_vgg16"])
    plain(PAYLOADS[payload](str(marker)), tmp_path / "evil.safetensors")  # is converted again, from the asset
    monkeypatch.setattr(assets, "fetch", lambda name: tmp_path / "evil.ckpt")
    refused(weights_path, "evil", convert=read_arrays, named=tmp_path / "evil.ckpt")


def admitted() -> OrderedDict:
    """What torch admits, whose methods are not what they seem."""
    tensor = Calls(torch._utils._rebuild_parameter_with_state, torch.ones(4, 3, 3, 3, 3), False, OrderedDict(),
                   {"float": torch.Size, "unsqueeze": torch.device, "is_floating_point": torch.Size, "dim": 3})
    return Calls(OrderedDict, state=dict.fromkeys(("items", "keys", "get", "__iter__"), torch.Size),
                 items=[("encoder.conv_in.weight", tensor)])


def test_admitted_objects_with_foreign_attributes_become_plain_data(tmp_path, marker):
    for content in (admitted(), {"state_dict": admitted()}):
        torch.save(content, tmp_path / "admitted.pt")
        state = read_file(tmp_path / "admitted.pt")
        state = state.get("state_dict", state)
        assert type(state) is dict and state["encoder.conv_in.weight"].float().shape == (4, 3, 3, 3, 3)
        with pytest.raises(CheckpointError, match="the checkpoint has no levels"):
            load_checkpoint(tmp_path / "admitted.pt", "o2_magvit2")


@pytest.mark.parametrize("header", [
    "{'descr': (", "(" * 500, "__import__('os').mkdir('marker')",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"])
def test_header_of_an_array_is_not_executed_and_its_size_not_trusted(header, tmp_path, marker, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    refused(load_checkpoint, tmp_path / "evil.npz", named=tmp_path / "evil.npz")


def header_of(**tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def f32(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("content", [
    (2**63 - 1).to_bytes(8, "little") + b"{}", (2**40).to_bytes(8, "little") + b"{}",
    header_of(a=f32([2], 0, 8), b=f32([2], 4, 12)) + bytes(12),
    header_of(a=f32([2], 0, 8), b=f32([2], 0, 8)) + bytes(8),
    header_of(a=f32([2], 0, 2**50)) + bytes(8), header_of(a=f32([2**40, 2**40], 0, 8)) + bytes(8),
    header_of(a=f32([-2], 0, 8)) + bytes(8), header_of(a=f32([2], 8, 0)) + bytes(8),
    header_of(a=f32([2], 0, 8)) + bytes(99),
    header_of(a={"dtype": "OBJ", "shape": [1], "data_offsets": [0, 8]}) + bytes(8),
    (10**5).to_bytes(8, "little") + b"[" * 10**5, header_of(__metadata__={"plugins": "[1]"}),
    header_of(__metadata__={"plugins": '{"x; rm -rf ~": "1"}'}), header_of(__metadata__={"plugins": "[" * 10**4})],
    ids=["length", "long", "overlap", "alias", "beyond", "shape", "negative", "backwards", "behind", "kind", "deep",
         "plugins", "words of plugins", "deep plugins"])
def test_false_safetensors_header_is_one_error(content, folder, tmp_path):
    (folder / "model.safetensors").write_bytes(content)
    refused(load_tokenizer, folder, named=folder)
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(load_checkpoint, tmp_path / "a.safetensors")


def edited(folder: Path, *path: str, value: Any) -> Path:
    """The config.json with one thing changed."""
    config = json.loads((folder / "config.json").read_text())
    place = functools.reduce(dict.__getitem__, path[:-1], config)
    place[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def evil_module(tmp_path, marker, monkeypatch) -> str:
    """A module to import by its name, which is seen to have run."""
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Component: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "evil_module.Component"


@pytest.mark.parametrize("named", [
    "os.system", "builtins.eval", "subprocess.Popen", "evil_module.Component", "evil_module:Component",
    "torch.hub.load", "toolkit.build.json.loads", "NotInstalled", "read_base", "__class__", "LFQ\0", "", None, 1, True,
    ["LFQ"], {"type": "LFQ"}])
def test_type_that_is_no_registered_part_is_refused_at_any_depth(named, folder, marker, evil_module):
    before = (folder / "config.json").read_text()
    component = {"type": named, "args": [f"mkdir {marker}"], "expression": f"__import__('os').mkdir({str(marker)!r})"}
    for place, value in [(("encoder",), component), (("quantizer",), component), (("decoder",), component),
                         (("encoder", "filters"), component), (("encoder", "channel_multipliers"), [[component]]),
                         (("quantizer",), {"type": "Residual", "quantizers": [component]})]:
        (folder / "config.json").write_text(before)
        refused(load_tokenizer, edited(folder, *place, value=value), named=folder)
    assert "evil_module" not in sys.modules


TEMPLATES = {
    "base": (("_base_",), "evil.py"), "base of a component": (("encoder", "_base_"), ["evil.py"]),
    "imports": (("custom_imports",), {"imports": ["evil_module"]}), "delete": (("encoder", "_delete_"), True),
    "scope": (("quantizer", "_scope_"), "evil_module"), "variable": (("quantizer", "scale"), "{{fileDirname}}"),
    "environment": (("encoder", "first_conv_bias"), ["{{$NONE:\"'}}", ", __import__('os').mkdir('marker')]#"]),
    "of a base": (("quantizer", "rotation_trick"), "{{_base_.evil}}"),
    "key": (("quantizer", "rotation_trick"), {"a': __import__('os').mkdir('marker'), 'b": 1}),
    "key with a line": (("quantizer", "rotation_trick"), {"a\n": 1}), "mapping": (("auto_map",), {"AutoModel": "x.Y"})}


@pytest.mark.parametrize("trick", TEMPLATES)
def test_template_words_of_mmengine_are_refused(trick, clips, folder, tmp_path, marker, monkeypatch):
    """Training on a tokenizer writes its config into the run's config.py, which --resume runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("import os\nos.mkdir('marker')\n")
    place, value = TEMPLATES[trick]
    refused(load_tokenizer, edited(folder, *place, value=value), named=folder)
    config = tiny_config(clips, training__init_from=str(folder))
    del config["tokenizer"]
    refused(build_trainer, Config(config), work_dir=tmp_path / "run", named=folder)


@pytest.mark.parametrize("text", [
    "import os; os.mkdir('marker')", "__import__('os').mkdir('marker')", "!!python/object/apply:os.mkdir [marker]",
    "[" * 10**5, '{"a":' * 10**5, "{", "NaN", '"config"', "\0" * 100, '{"encoder": ' + "9" * 10**5 + "}"],
    ids=["module", "expression", "YAML", "deep list", "deep dict", "torn", "NaN", "text", "zeros", "digits"])
def test_invalid_config_is_one_error(text, folder, tmp_path, marker, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "config.json").write_text(text)
    refused(load_tokenizer, folder, named=folder)


def test_link_out_of_the_folder_is_read_as_data_and_not_changed(folder, tmp_path, marker):
    outside = tmp_path / "outside.py"
    outside.write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(outside)
    before = outside.read_text()
    assert "mkdir" not in refused(load_tokenizer, folder, named=folder)
    assert outside.read_text() == before


ENORMOUS = """
import json, sys, time
from pathlib import Path
import peak_memory
from toolkit import load_tokenizer
from toolkit.interop import load_checkpoint  # import it before measuring
folder = Path(sys.argv[1])
original = (folder / "config.json").read_text()
load_tokenizer(folder)
before, started = peak_memory.peak_mib(), time.time()
network = {"filters", "in_channels", "num_res_blocks", "channel_multipliers", "temporal_kernel", "num_groups"}
for number in (10**4, 10**6, 10**9, 10**30, -1, 0):
    cases = [(component, name, [number] * 3 if name == "channel_multipliers" else number)
             for component in ("encoder", "decoder") for name in network]
    cases += [("quantizer", "bits", number), ("quantizer", "num_codebooks", number)]
    cases += [("quantizer", None, quantizer) for quantizer in ({"type": "VQ", "codebook_size": number, "dim": 6},
        {"type": "VQ", "codebook_size": number, "dim": 6, "update": "ema"},
        {"type": "IBQ", "codebook_size": 4, "dim": number}, {"type": "KL", "dim": number})]
    for component, name, value in cases:
        config = json.loads(original)
        config[component] = config[component] | {name: value} if name else value
        (folder / "config.json").write_text(json.dumps(config))
        try:
            load_tokenizer(folder)
        except (TypeError, ValueError) as error:
            assert str(folder) in str(error), (component, name, value, error)
        else:  # a norm has no more groups than channels, whatever it is given
            assert name == "num_groups" and value > 0, (component, name, value)
print(peak_memory.peak_mib() - before, time.time() - started)
"""


def test_enormous_numbers_in_a_config_cost_no_memory_and_time(folder):
    _, printed = peak_memory.peak_of(folder, code=ENORMOUS, env=ENVIRONMENT | {"PYTHONWARNINGS": "ignore"})
    added, seconds = map(float, printed.split())
    assert added < 800 and seconds < 40  # MiB; a billion filters would be 10^11 MiB


def test_only_two_files_of_a_hub_snapshot_are_read(folder, tmp_path, marker, monkeypatch):
    from huggingface_hub import constants

    home = tmp_path / "hub" / "models--user--name"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = Path(shutil.copytree(folder, home / "snapshots" / ("0" * 40)))
    for name in ("modeling.py", "__init__.py", "setup.py", "conftest.py"):
        (snapshot / name).write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    plain(Calls(os.mkdir, str(marker)), snapshot / "pytorch_model.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_tokenizer("user/name").config == load_tokenizer(folder).config
    edited(snapshot, "auto_map", value={"AutoModel": "modeling.Model"})
    assert "auto_map" in refused(load_tokenizer, "user/name", named="user/name")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer at user/name"):
        load_tokenizer("user/name")

"""A checkpoint family of a plugin, of two files, is found without an edit in the toolkit."""

from __future__ import annotations

import pytest
import torch
from interop.foreign import Tensors, close, foreign, save_safetensors, taming_names
from plugins.installed import install, run_with

from toolkit import load_tokenizer

PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "toolkit-joined"
version = "0.1.0"

[project.entry-points."toolkit.checkpoints"]
joined = "toolkit_joined:Joined"
broken = "toolkit_joined:NoSuchClass"

[tool.setuptools]
py-modules = ["toolkit_joined"]
"""
MODULE = '''
from toolkit.interop.vqgan import Taming


class Joined(Taming):
    """taming's VQGAN with one joined convolution for q, k and v."""

    def score(self, tensors, file_name):
        return float(any(".qkv." in name for name in tensors))

    def config(self, tensors):
        return super().config(split(tensors))

    def state_dict(self, tensors):
        return super().state_dict(split(tensors))


def split(tensors):
    whole = {}
    for name, tensor in tensors.items():
        if ".qkv." in name:
            whole |= {name.replace(".qkv.", f".{key}."): chunk for key, chunk in zip("qkv", tensor.chunk(3))}
        else:
            whole[name] = tensor
    return whole
'''


def joined(tensors: Tensors) -> Tensors:
    """The same checkpoint with q, k and v in one tensor each."""
    return {name.replace(".q.", ".qkv."): torch.cat([tensors[name.replace(".q.", f".{key}.")] for key in "qkv"])
            if ".q." in name else tensor for name, tensor in tensors.items() if ".k." not in name and ".v." not in name}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "toolkit_joined.py").write_text(MODULE)
    return install([folder], tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("arguments", [(), ("--layout", "joined")], ids=["recognised", "named"])
def test_family_of_a_plugin_that_splits_tensors_is_found_by_convert_checkpoint(site, tmp_path, arguments):
    case = foreign("llamagen_vq_tiny")
    path = save_safetensors(joined(taming_names(case.tensors)), tmp_path / "joined.safetensors")
    done = run_with(site, "tools/convert_checkpoint.py", path, tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    assert ("checkpoint family 'broken' of toolkit-joined 0.1.0" in done.stderr) == (not arguments)  # and goes on
    assert done.stdout.startswith("joined: VQGANEncoder, VQ, VQGANDecoder")
    with torch.no_grad():
        close(load_tokenizer(tmp_path / "out")(case.pixels).latents, case.latents)


def test_tensor_too_many_for_the_family_of_a_plugin_is_named(site, tmp_path):
    tensors = joined(taming_names(foreign("llamagen_vq_tiny").tensors)) | {"encoder.extra.weight": torch.ones(2)}
    path = save_safetensors(tensors, tmp_path / "joined.safetensors")
    done = run_with(site, "tools/convert_checkpoint.py", path, tmp_path / "out")
    assert done.returncode == 1 and "left over in the checkpoint: encoder.extra.weight" in done.stderr


def test_named_family_that_fails_is_an_error_of_one_line(site, tmp_path):
    path = save_safetensors({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    done = run_with(site, "tools/convert_checkpoint.py", path, tmp_path / "out", "--layout", "broken")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: checkpoint family 'broken' of toolkit-joined 0.1.0")

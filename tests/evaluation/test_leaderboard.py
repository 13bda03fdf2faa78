"""Leaderboards: what a file may state, and runs of tiny networks that are interrupted, repeated and continued."""

import json
import shutil
from pathlib import Path

import pytest
from evaluation.running import FOLDER, run_here, write_suite
from training import tiny
from training.tiny import stripes, tiny_config, write_config

from toolkit.data import write_image
from toolkit.evaluation import leaderboard as leaderboards
from toolkit.evaluation import results
from toolkit.evaluation.leaderboard import Leaderboard, LeaderboardEntry, build_and_check, load_leaderboard, recipes_of
from toolkit.evaluation.protocol import PSNR, load_suite
from toolkit.training import Trainer

as_in_a_new_process, clips = tiny.as_in_a_new_process, tiny.clips
FSQ = {"tokenizer.quantizer": dict(_delete_=True, type="FSQ", levels=[8, 8])}
BASELINES = {"thumbnail", "x264", "x265", "meancolour"}
TRAINED = [f"{name}_seed{seed}" for seed in (0, 1) for name in ("lfq", "fsq", "no_quantizer")]
LFQ = LeaderboardEntry("lfq", "LFQ")
FLOPS = 1.7e9  # four steps


def write_leaderboard(folder: Path, clips: Path, *entries: LeaderboardEntry, seeds=(0, 1), suites=("video",)) -> Path:
    """A leaderboard of four steps for each training, and its config and suites, all in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = dict(every=1, keep=2)
    write_config(folder / "config.py", tiny_config(clips, training__checkpoints=checkpoints))
    for name in suites:
        write_suite(folder / f"{name}.py", clips if name == "video" else write_images(folder / "images"),
                    metrics=(PSNR,), clips_per_video=1, num_frames=5 if name == "video" else 1)
    leaderboard = Leaderboard("config.py", entries or (LFQ, LeaderboardEntry("fsq", "FSQ", FSQ)),
                              tuple(f"{name}.py" for name in suites), flops=FLOPS, seeds=seeds)
    file = folder / "mine.py"
    file.write_text("from toolkit.evaluation.leaderboard import Leaderboard, LeaderboardEntry\n"
                    f"LEADERBOARD = {leaderboard!r}\n")
    return file


def write_images(folder: Path) -> Path:
    """A folder of two images."""
    folder.mkdir()
    for number in range(2):
        write_image(folder / f"{number}.png", stripes(number, num_frames=1, height=32, width=32))
    return folder


@pytest.fixture
def no_costs(monkeypatch):
    monkeypatch.setattr(results, "measure_cost", lambda *_: {})  # takes seconds


def run(file: Path, output: Path, *arguments: object) -> str | int | None:
    tiny.AcceleratorState._reset_state(reset_partial_state=True)
    return run_here("--leaderboard", file, "--output", output, "--device", "cpu", *arguments)


def scores_in(output: Path, suite: str = "video") -> dict[str, dict]:
    """Name of a row -> scores."""
    return {path.stem: json.loads(path.read_text())["scores"] for path in (output / "results" / suite).glob("*.json")}


@pytest.mark.parametrize(("change", "message"), [
    (dict(entries=()), "one or more different entries, got"), (dict(entries=(LFQ, LFQ)), "different entries, got"),
    (dict(suites=("a", "x/a.py")), "different suites, got"), (dict(seeds=(1, 1)), "different seeds, got"),
    (dict(flops=0), "needs flops > 0, got 0"),
    (dict(entries=(LeaderboardEntry("no_quantizer", "x"),)), "rename that entry"),
    (dict(entries=(LFQ, LeaderboardEntry("b", "B", base="c"))), "got 'c'; there are lfq")])
def test_a_leaderboard_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Leaderboard(**dict(config="config.py", entries=(LFQ,), suites=("a",), flops=1e9) | change)


@pytest.mark.parametrize(("overrides", "named"), [
    ({"tokenizer.encoder.filters": 16}, "tokenizer.encoder"), ({"data.train.batch_size": 4}, "data"),
    ({"training.max_steps": 9}, "training.max_steps"), ({"training.max_flops": 1e12}, "training.max_flops"),
    ({"training.init_from": "folder"}, "training.init_from"), ({"seed": 3}, "seed")])
def test_an_entry_with_another_network_data_or_budget_is_refused(overrides, named, clips, tmp_path):
    file = write_leaderboard(tmp_path, clips, LFQ, LeaderboardEntry("other", "other", overrides))
    with pytest.raises(ValueError, match=rf"entry other of a leaderboard may not change {named}: it has"):
        recipes_of(load_leaderboard(file), tmp_path)


@pytest.mark.parametrize(("quantizer", "message"), [
    (dict(type="LFQ", bits=9), r"got 0.9 bits/pixel of lfq and 1.35 of other on video"),  # 3 x 16 x 16 x bits / 5120
    (dict(type="Identity", dim=6), "entry other of a leaderboard needs a discrete quantizer, got Identity"),
    (dict(type="LFQ", bitts=6), "entry other of the leaderboard: .*bitts")])
def test_an_entry_of_another_rate_is_refused_with_both_rates(quantizer, message, clips, tmp_path):
    overrides = {"tokenizer.quantizer": dict(_delete_=True, **quantizer)}
    file = write_leaderboard(tmp_path, clips, LFQ, LeaderboardEntry("other", "other", overrides))
    recipes = recipes_of(load_leaderboard(file), tmp_path)
    with pytest.raises(ValueError, match=message):
        build_and_check(recipes, {"video": (5, 32, 32)}, num_processes=1)


def test_a_recipe_does_not_depend_on_the_seed_and_changes_with_an_override(clips, tmp_path):
    def hashes(*entries, **options):
        file = write_leaderboard(tmp_path, clips, *entries, **options)
        return [recipe.hash for recipe in recipes_of(load_leaderboard(file), tmp_path)]

    slower = LeaderboardEntry("lfq", "LFQ", {"training.learning_rate": 1e-4})
    assert hashes(LFQ) == hashes(LFQ, seeds=(5,)) != hashes(slower)
    assert len({*hashes(LFQ), *hashes(slower)}) == 4  # with and without the quantizer


@pytest.mark.parametrize("option", [["--limit", 2], ["--metrics", "PSNR"], ["--suite", "samples_image"],
                                    ["--flops", 1e9], ["--cfg-options", "seed=1"]])
def test_a_leaderboard_takes_no_shortcuts_from_the_command(option, capsys):
    assert run_here("--leaderboard", "small", *option) == 2
    assert f"a leaderboard's file determines {option[0][2:].replace('-', '_')}" in capsys.readouterr().err


def test_an_unknown_leaderboard_is_one_error_line(capsys):
    assert run_here("--leaderboard", "smal", "--device", "cpu") == 1
    assert "no leaderboard is called 'smal'; did you mean small" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_leaderboard_fits_together():
    file = FOLDER / "leaderboards" / "small.py"
    leaderboard = load_leaderboard(file)
    recipes = recipes_of(leaderboard, file.parent)
    sizes = {suite: load_suite(suite, FOLDER / "suites").protocol.sample_size for suite in leaderboard.suites}
    tokenizer = build_and_check(recipes, sizes, num_processes=1)
    assert tokenizer.codebook_size == 2**12 and len({recipe.hash for recipe in recipes}) == len(recipes)
    assert len(leaderboard.seeds) == 3 and sum(entry.base is not None for entry in leaderboard.entries) >= 3


@pytest.mark.slow
def test_a_killed_leaderboard_continues_and_equals_one_in_one_go(clips, tmp_path, monkeypatch, capsys, no_costs):
    file = write_leaderboard(tmp_path, clips)
    monkeypatch.setattr(leaderboards, "BASELINES", ("Thumbnail", "MeanColour"))  # the codecs take seconds
    assert run(file, tmp_path / "whole") == 0
    whole = scores_in(tmp_path / "whole")
    assert whole.keys() == {*TRAINED, "thumbnail", "meancolour"}
    assert len({scores["psnr"] for scores in whole.values()}) == len(whole)  # each seed is another training

    started, train_step = [], Trainer._train_step

    def killed_within_the_second_training(trainer, log):
        started.append((trainer.work_dir.name.split("-")[0], trainer.step))
        if started[-1][1] == 2 and len({name for name, _ in started}) == 2:
            raise KeyboardInterrupt
        return train_step(trainer, log)

    monkeypatch.setattr(Trainer, "_train_step", killed_within_the_second_training)
    output = tmp_path / "killed"
    assert run(file, output) == 130
    assert scores_in(output).keys() == {"lfq_seed0", "thumbnail", "meancolour"} and started[-1] == ("fsq_seed0", 2)
    monkeypatch.setattr(Trainer, "_train_step", lambda trainer, log: (started.append(
        (trainer.work_dir.name.split("-")[0], trainer.step)), train_step(trainer, log))[1])
    del started[:]
    assert run(file, output) == 0
    assert started[0] == ("fsq_seed0", 2)  # from its checkpoint
    assert list(dict.fromkeys(name for name, _ in started)) == TRAINED[1:]  # the first seed of all entries first
    assert scores_in(output) == whole  # bit for bit
    assert "| LFQ | 2 | 0.9000 | " in capsys.readouterr().out

    del started[:]
    shutil.rmtree(output / "training")  # the rows are enough
    assert run(file, output) == 0 and not started and not (output / "training").exists()
    for path in (output / "results").rglob("*.json"):
        assert str(tmp_path) not in path.read_text() and str(clips) not in path.read_text()
    row = json.loads((output / "results" / "video" / "fsq_seed1.json").read_text())
    assert row["training"]["entry"] == "fsq" and row["training"]["seed"] == 1 and row["training"]["flops"] <= FLOPS
    assert row["training"]["config"] == "config.py" and len(row["without_block"]["psnr"]) == 3


@pytest.mark.slow
def test_several_suites_have_a_table_each_and_a_failed_entry_is_named(clips, tmp_path, capsys, no_costs):
    failing = LeaderboardEntry("short", "short", {"training.learning_rate": 1e30, "training.max_skipped_in_a_row": 0})
    file = write_leaderboard(tmp_path, clips, LFQ, failing, seeds=(0,), suites=("video", "image"))
    assert run(file, tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "error: short, seed 0: " in printed.err
    for suite in ("video", "image"):
        assert scores_in(tmp_path / "out", suite).keys() == {"lfq_seed0", "no_quantizer_seed0", *BASELINES}
        assert f"**{suite}**: 2 of 3 trainings" in printed.out
    assert (tmp_path / "out" / "table.md").read_text().strip() in printed.out

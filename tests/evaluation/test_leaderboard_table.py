"""Tables and sentences of a leaderboard, from rows with round numbers, and those of the README."""

import json
from pathlib import Path

import pytest
from evaluation.running import FOLDER, run_here

from toolkit.evaluation.leaderboard_table import (
    HEADINGS,
    NO_RESULTS,
    PLAN,
    leaderboard_markdown,
    mean_row,
    read_results,
    sentences,
    table_rows,
)
from toolkit.evaluation.protocol import PSNR, VGG, Protocol
from toolkit.evaluation.table import PLUS_MINUS, insert_table

PROTOCOL = Protocol("any", "all", None, 32, (PSNR, VGG))
COLUMNS = {"psnr": dict(label="PSNR", format=".2f", factor=1, unit="dB", higher_is_better=True),
           "lpips_vgg": dict(label="LPIPS (VGG)", format=".3f", factor=1, unit="", higher_is_better=False)}
PSNRS = {"a": (21.0, 21.2, 21.1), "b": (20.0, 20.1, 20.2), "c": (20.5, 20.0, 20.9), "a_plain": (19.0, 19.0, 19.1)}


def row(entry, seed, psnr, *, kind="tokenizer", lpips=0.5, without_block=(), **changes):
    """A row as a leaderboard writes it; ``without_block`` is added to the PSNR."""
    return dict(
        name=f"{entry}_seed{seed}", title=entry.upper(), kind=kind, order=0, suite="any",
        protocol=dict(vars(PROTOCOL)), protocol_hash=PROTOCOL.hash, num_samples=4, num_blocks=3, unreadable={},
        scores={"psnr": psnr, "lpips_vgg": lpips, "bits_per_pixel": 0.75}, columns=COLUMNS, intervals={},
        without_block={"psnr": [psnr + change for change in without_block]} if without_block else {}, extrapolated={},
        training={"entry": entry, "recipe": f"recipe of {entry}", "seed": seed, "flops": 2e15, "steps": 10},
        parameters={"encoder": 1000}, throughput={"encode_frames_per_second": 10.0 + seed}, notes=[]) | changes


@pytest.fixture
def folder(tmp_path):
    """Results of three entries, a variant of the first, and two baselines."""
    plan = {"name": "mine", "flops": 2e15, "seeds": [0, 1, 2], "compared": ["psnr", "lpips_vgg"],
            "suites": {"any": PROTOCOL.hash},
            "entries": [{"name": name, "title": name.upper(), "recipe": f"recipe of {name}",
                         "base": "a" if name == "a_plain" else None} for name in (*PSNRS, "none")]}
    rows = [row(name, seed, psnr) for name, psnrs in PSNRS.items() for seed, psnr in enumerate(psnrs)]
    rows += [row("none", 0, 30.0, kind="baseline", order=9),
             row("thumbnail", 0, 25.0, kind="baseline", order=1) | {"name": "thumbnail", "training": None}]
    (tmp_path / "any").mkdir()
    (tmp_path / PLAN).write_text(json.dumps(plan))
    for item in rows:
        (tmp_path / "any" / f"{item['name']}.json").write_text(json.dumps(item))
    return tmp_path


def results_of(folder):
    plan = json.loads((folder / PLAN).read_text())
    return plan, *read_results(folder, plan, "any")


def test_entries_are_sorted_by_mean_psnr_and_baselines_are_last(folder):
    rows = table_rows(*results_of(folder))
    assert [item["title"] for item in rows] == ["A", "C", "B", "A_PLAIN", "THUMBNAIL", "NONE"]
    assert rows[0]["scores"]["psnr"] == pytest.approx(21.1) and rows[0]["seed_range"]["psnr"] == [21.0, 21.2]
    assert rows[0]["throughput"]["encode_frames_per_second"] == 11.0 and rows[0]["seeds"] == "3"
    assert "seeds" not in rows[4] and rows[5]["seeds"] == "1 of 3" and rows[5]["seed_range"] == {}


def test_the_table_has_means_ranges_seeds_and_flops(folder):
    text = leaderboard_markdown(folder)
    assert "|  | seeds | bits/pixel | PSNR (dB) | LPIPS (VGG) | " in text
    assert "| A | 3 | 0.7500 | 21.10 (21.00 to 21.20) | 0.500 | " in text
    assert "| NONE | 1 of 3 | 0.7500 | 30.00 | 0.500 | " in text and "| THUMBNAIL | - | " in text
    assert "training (PFLOP)" in text and "in parentheses: the lowest and the highest of the seeds" in text
    assert "**any**: 13 of 15 trainings of at most 2e+15 FLOPs each, seeds 0, 1, 2." in text
    assert "|  | seeds | PSNR (dB) |\n" in leaderboard_markdown(folder, ["PSNR (dB)"])


def test_only_differences_beyond_the_spread_are_sentences(folder):
    plan, trained, _ = results_of(folder)
    # a - b is 1.0, 1.1, 0.9; a - c 0.5, 1.2, 0.2; c - b 0.5, -0.1, 0.7; a - a_plain 2.0, 2.2, 2.0
    assert sentences(plan, trained, "psnr") == [
        f"A has a higher PSNR than B (+1.00 {PLUS_MINUS} 0.25 dB) and A_PLAIN (+2.07 {PLUS_MINUS} 0.29 dB)."]
    assert sentences(plan, trained, "lpips_vgg") == [] == sentences(plan, trained, "unknown")
    text = leaderboard_markdown(folder)
    assert text.count("- A has a higher PSNR") == 1 and "Differences larger than the spread:" in text
    assert "LPIPS (VGG) than" not in text


def test_a_variant_is_compared_with_its_base_only(folder):
    plan, trained, _ = results_of(folder)
    for name, psnr in (("b", 10.0), ("c", 10.0)):  # far below, the same for all seeds
        trained[name] = {seed: row(name, seed, psnr) for seed in range(3)}
    lines = sentences(plan, trained, "psnr")
    assert len(lines) == 1 and lines[0].startswith("A has a higher PSNR than A_PLAIN (+2.07")
    assert "B (" in lines[0] and "C (" in lines[0]  # and A_PLAIN, better than both, has no sentence


def test_lower_is_better_where_the_metric_says_so(folder):
    plan, trained, _ = results_of(folder)
    trained["b"] = {seed: row("b", seed, 20.0, lpips=0.4) for seed in range(3)}
    assert sentences(plan, trained, "lpips_vgg") == [
        f"B has a lower LPIPS (VGG) than A (-0.100 {PLUS_MINUS} 0.000) and C (-0.100 {PLUS_MINUS} 0.000)."]


def test_without_a_difference_the_text_says_so(folder):
    for path in (folder / "any").glob("*_seed2.json"):
        path.unlink()
    text = leaderboard_markdown(folder)
    assert "| A | 2 of 3 | " in text and "No difference is larger than the spread." in text


def test_the_interval_over_data_is_that_of_the_mean_over_seeds():
    rows = [row("a", seed, 20.0 + seed, without_block=(1.0, 0.0, -1.0)) for seed in range(3)]
    low, high = mean_row(rows, num_seeds=3)["intervals"]["psnr"]
    # standard error sqrt(2 / 3 * 2), times the quantile of Student's t(2)
    assert (low + high) / 2 == pytest.approx(21.0)
    assert (high - low) / 2 == pytest.approx(4.302652729911275 * (4 / 3) ** 0.5)


def test_a_score_that_one_seed_lacks_is_missing():
    rows = [row("a", 0, 20.0), row("a", 1, None), row("a", 2, 21.0)]
    mean = mean_row(rows, num_seeds=3)
    assert mean["scores"]["psnr"] is None and "psnr" not in mean["seed_range"]
    assert mean["scores"]["lpips_vgg"] == 0.5


def test_rows_of_another_recipe_or_protocol_are_left_out_and_named(folder, caplog):
    for name, changes in (("a_seed0", {"training": row("a", 0, 1.0)["training"] | {"recipe": "older"}}),
                          ("thumbnail", {"protocol_hash": "older"})):
        path = folder / "any" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    _, trained, baselines = results_of(folder)
    assert sorted(trained["a"]) == [1, 2] and baselines == []
    assert "rows of another recipe, protocol or seed are not in the table: a_seed0, thumbnail." in caplog.text


def test_without_rows_there_are_no_results(tmp_path, folder):
    assert leaderboard_markdown(tmp_path / "nothing") == NO_RESULTS
    for path in (folder / "any").glob("*.json"):
        path.unlink()
    assert leaderboard_markdown(folder) == NO_RESULTS


@pytest.mark.parametrize("file", sorted((FOLDER / "leaderboards").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_the_readmes_section_is_made_of_the_committed_results(file):
    readme, name = (FOLDER / "README.md").read_text(), f"leaderboard_{file.stem}"
    assert insert_table(readme, name, leaderboard_markdown(FOLDER / "results" / name, HEADINGS)) == readme
    for path in (FOLDER / "results" / name).rglob("*.json"):
        assert not {str(Path.home()), str(FOLDER.parent), "work_dirs"} & set(path.read_text().split('"'))


def test_table_py_prints_the_tables_and_needs_markers_for_them(folder, monkeypatch, capsys):
    target = folder.rename(folder.with_name("leaderboard_unknown"))
    with pytest.raises(ValueError, match="no markers <!-- results/leaderboard_unknown -->"):
        run_here(target, script="table.py")
    assert "| A | 3 | " in capsys.readouterr().out

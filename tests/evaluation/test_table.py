"""The committed table is that of the committed results."""

import json

import pytest
from evaluation.running import FOLDER

from toolkit.evaluation.table import cells_of, insert_table, markdown, rows_of_folder

FRONT = FOLDER.parent / "README.md"
FRONT_HEADS = ("bits/pixel", "PSNR (dB)", "SSIM", "LPIPS (VGG)", "rFID", "rFVD", "codes used (%)")
README = (FOLDER / "README.md").read_text()
COMMITTED = sorted(path.name for path in (FOLDER / "results").iterdir() if path.is_dir() and rows_of_folder(path))


@pytest.mark.parametrize("suite", COMMITTED)
def test_the_readmes_table_is_made_of_the_committed_rows(suite):
    rows = rows_of_folder(FOLDER / "results" / suite)
    assert insert_table(README, suite, markdown(rows)) == README
    front = FRONT.read_text()
    assert suite not in front or insert_table(front, suite, markdown(rows, FRONT_HEADS)) == front
    for row in rows:
        json.dumps(row, allow_nan=False)
        assert (row["kind"] in ("tokenizer", "baseline")) and row["protocol_hash"] == rows[0]["protocol_hash"]
    assert {"thumbnail", "x264", "x265"} <= {row["name"] for row in rows}  # a number without them says nothing
    assert any(row["kind"] == "baseline" and row["scores"].get("bits_per_pixel") is None for row in rows)


def test_the_readme_has_a_place_for_the_sample_suites_table():
    assert insert_table(README, "samples_video", "new").count("\nnew\n") == 1
    with pytest.raises(ValueError, match="no marks"):
        insert_table(README, "nothing", "new")


def row(name: str, **changes) -> dict:
    """A row as run.py writes it, of round numbers."""
    return {"name": name, "title": name.upper(), "kind": "tokenizer", "order": 0, "protocol_hash": "abc",
            "protocol": {"dataset": "d", "split": "s", "num_frames": 1, "size": 8, "resize": "r", "crop": "c"},
            "scores": {"psnr": 20.0, "bits_per_pixel": 0.25, "rfid": 5.0}, "intervals": {"psnr": [18.0, 22.0]},
            "marks": {}, "num_samples": 9, "num_blocks": 3, "suite": "suite", "parameters": {"encoder": 10**6,
                                                                                            "decoder": 10**6}} | changes


def test_cells_have_intervals_marks_and_dashes():
    header, cells = cells_of([row("a", marks={"rfid": "few samples"}), row("b", scores={"psnr": 1.0})])
    assert header == ["", "bits/pixel", "PSNR (dB)", "rFID", "parameters (M)"]
    assert cells == [["A", "0.2500", "20.00 \N{PLUS-MINUS SIGN} 2.00", "5.0\N{DAGGER}", "2.00"],
                     ["B", "-", "1.00 \N{PLUS-MINUS SIGN} 2.00", "-", "2.00"]]


def test_markdown_is_a_table_with_footnotes():
    text = markdown([row("a", marks={"rfid": "few samples"}, unreadable={"x.mp4": "torn"})])
    lines = text.splitlines()
    assert lines[0].startswith("|  | bits/pixel |") and lines[1].count("---") == lines[0].count("|") - 1
    assert "| A* |" in text and "x.mp4" in text and "fewer than 2,000" in text and "Protocol abc" in text


def test_rows_are_ordered_by_their_run_with_baselines_last(tmp_path):
    for number, (name, kind) in enumerate([("z", "tokenizer"), ("b", "tokenizer"), ("a", "baseline")]):
        (tmp_path / f"{name}.json").write_text(json.dumps(row(name, kind=kind, order=number)))
    (tmp_path / "other.json").write_text("{}")
    assert [row["name"] for row in rows_of_folder(tmp_path)] == ["z", "b", "a"]


def test_extrapolated_distances_stand_beside_the_raw_ones():
    text = markdown([row("a", extrapolated={"rfid": 3.25})], ["rFID"])
    assert "| A | 5.0 (\N{INFINITY}: 3.2) |" in text and "arXiv:1911.07023" in text

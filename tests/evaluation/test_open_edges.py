"""What a plugin or another network adds to a benchmark without an edit in the toolkit."""

import json
import math
import subprocess
import sys

import av
import pytest
import torch
from evaluation.running import FOLDER, rows_in, run_here, write_suite
from training import tiny
from training.tiny import tiny_config, write_clips

from toolkit import build_tokenizer
from toolkit.contracts import Baseline, Column
from toolkit.evaluation import results
from toolkit.evaluation.entries import Entry, baseline_entries, open_codec, tokenizer_entry
from toolkit.evaluation.preparation import with_values
from toolkit.evaluation.protocol import Protocol
from toolkit.evaluation.report import write_report
from toolkit.evaluation.table import cells_of, rows_of_folder
from toolkit.metrics.frames import FrameMean
from toolkit.registry import BASELINES, METRICS

as_in_a_new_process = tiny.as_in_a_new_process
COMMITTED = FOLDER / "results" / "samples_video"


@pytest.fixture
def additions():
    """A metric with its own column and a baseline, registered as plugins' are when they are in use."""
    @METRICS.register_module()
    class Sharpness(FrameMean):
        name, higher_is_better = "sharpness", {"sharpness": True}
        columns = {"sharpness": Column("sharp <b>", ".1f", factor=100, unit="%")}

        def score(self, target, reconstruction):
            return 1 - (reconstruction - target).abs().mean((1, 2, 3))

    @BASELINES.register_module()
    class Grey(Baseline):
        bits_per_pixel = 0.25

        def __call__(self, pixels):
            return torch.zeros_like(pixels), None

    yield
    del METRICS.module_dict["Sharpness"], BASELINES.module_dict["Grey"]


def test_a_metric_has_a_column_and_a_baseline_a_row_without_an_edit(additions, tmp_path, monkeypatch):
    clips = write_clips(tmp_path / "clips", count=2, num_frames=5)
    suite = write_suite(tmp_path / "stripes.py", clips, metrics='PSNR, {"type": "Sharpness"}, CODEBOOK',
                        clips_per_video=1)
    torch.manual_seed(0)
    build_tokenizer(tiny_config(clips)["tokenizer"]).save_pretrained(tmp_path / "mine" / "tokenizer")
    measured = []  # registered in this process only, so costs are measured here
    monkeypatch.setattr(results, "measure_cost", lambda spec, *_: measured.append(spec["type"]) or {})
    assert run_here("--suite", suite, "--tokenizer", tmp_path / "mine" / "tokenizer", "--baseline", "Grey",
                    "--baseline", "MeanColour", "--output", tmp_path / "out", "--device", "cpu") == 0
    rows = rows_in(tmp_path / "out")
    assert rows["grey"]["scores"]["bits_per_pixel"] == 0.25 and rows["grey"]["curve"] and "Grey" in measured
    assert rows["meancolour"]["scores"]["bits_per_pixel"] == pytest.approx(24 / 32**2)  # counted from indices
    monkeypatch.delitem(METRICS.module_dict, "Sharpness")  # another process that reads the rows has no such metric
    header, cells = cells_of(rows_of_folder(tmp_path / "out"))
    place = header.index("sharp <b> (%)")
    assert all(float(row[place].split()[0]) > 0 for row in cells)
    write_report([*rows.values()], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'data-key="sharpness" data-first="descending"' in page and "sharp &lt;b&gt; ↑<br>%" in page


def test_rates_are_counted_from_indices_and_the_thumbnail_has_a_grid_for_a_sequence(tmp_path, monkeypatch):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(tiny_config(tmp_path)["tokenizer"])
    tokenizer.save_pretrained(tmp_path)
    protocol = Protocol("any", "all", None, 32, ())
    entry = tokenizer_entry(tmp_path, protocol, name="a", title="a")
    assert entry.rate == 6 * 16 * 16 / 32**2  # bits x positions / pixels
    monkeypatch.setattr(type(tokenizer.encoder), "grid", lambda self, size: (1, 1, 64))
    monkeypatch.setattr(type(tokenizer), "grid", lambda self, size: (1, 1, 64))
    sequence = tokenizer_entry(tmp_path, protocol, name="b", title="b")
    assert sequence.rate == 6 * 64 / 32**2
    thumbnail, *_ = baseline_entries(["Thumbnail"], [sequence], protocol)
    _, indices = open_codec(thumbnail.spec, "cpu")(torch.zeros(1, 3, 1, 32, 32))
    assert indices.shape == (1, 1, 8, 8, 1)
    assert indices.numel() * math.log2(open_codec(thumbnail.spec, "cpu").codebook_size) == 6 * 64


def test_values_of_8_bits_reach_the_metrics():
    pixels = torch.rand(1, 3, 1, 4, 4) * 2.2 - 1.1
    levels = (with_values(pixels, "uint8") + 1) * 127.5
    assert torch.equal(with_values(pixels, "float"), pixels)
    assert (levels - levels.round()).abs().max() < 1e-4 and levels.min() >= 0 and levels.max() <= 255


def test_committed_rows_have_the_fingerprints_that_a_run_computes():
    """x264's needs no weights: its identity is its rates and the versions of the codecs."""
    row = json.loads((COMMITTED / "x264.json").read_text())
    if row["versions"]["av"] != av.__version__:
        pytest.skip("another version of the codecs is another identity")
    others = [json.loads((COMMITTED / f"{name}.json").read_text())["scores"]["bits_per_pixel"]
              for name in ("lfq", "vq")]
    rates = sorted({round(rate, 9) for rate in (*others, 0.5 * others[0], 2 * others[0])} - {round(others[0], 9)})
    spec = {"type": "x264", "reference": round(others[0], 9), "curve": rates, "bits_per_pixel": others[0]}
    evaluation = object.__new__(results.Evaluation)
    evaluation.protocol = Protocol(**{key: tuple(value) if isinstance(value, list) else value
                                      for key, value in row["protocol"].items()})
    evaluation.data_identity = row["data"]
    assert evaluation.protocol.hash == row["protocol_hash"] == "707edf5d57d6"
    assert evaluation.fingerprint(Entry("x264", "x264", "baseline", spec)) == row["fingerprint"]


def test_imports_of_the_package_need_no_plotting_and_stay_in_order():
    code = ("import sys, toolkit.evaluation, toolkit.evaluation.benchmark\n"
            "print([name for name in ('matplotlib', 'pandas', 'scipy.stats') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout



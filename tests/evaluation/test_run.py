"""benchmarks/run.py as its users run it, on tiny networks and clips of stripes."""

import math
import shutil
import subprocess
import sys

import av
import pytest
import torch
from evaluation.running import FOLDER, command_of, rows_in, run_here, run_in_processes, save_tokenizer, write_suite
from hub_cache import add_commit, use_cache
from safetensors.torch import load_file, save_file
from training import tiny
from training.tiny import tiny_config, write_clips, write_config

from toolkit.baselines.video_codec import X264
from toolkit.contracts import Baseline, Column
from toolkit.evaluation import results
from toolkit.evaluation.entries import Entry, baseline_entries, build_codec, tokenizer_entry
from toolkit.evaluation.preparation import build_dataset, cast_values
from toolkit.evaluation.protocol import ALEX, CODEBOOK, I3D, INCEPTION, PSNR, SSIM, Protocol, load_suite
from toolkit.evaluation.report import write_report
from toolkit.evaluation.table import cells_of, footnotes, rows_of_folder
from toolkit.metrics import frames, frechet
from toolkit.metrics.frames import FrameMean
from toolkit.networks import MAGVIT2Encoder
from toolkit.registry import BASELINES, METRICS
from toolkit.tokenizer import Tokenizer

as_in_a_new_process, clips = tiny.as_in_a_new_process, tiny.clips
UNTRAINED = {"thumbnail", "x264", "x265"}


@pytest.fixture(scope="module")
def sweep(clips, tmp_path_factory):
    """(command, output) of a finished sweep of two quantizers."""
    folder = tmp_path_factory.mktemp("sweep")
    fsq = dict(_delete_=True, type="FSQ", levels=[8, 8, 8])
    configs = [write_config(folder / "lfq.py", tiny_config(clips)),
               write_config(folder / "fsq.py", tiny_config(clips, tokenizer__quantizer=fsq))]
    command = ["--suite", write_suite(folder / "stripes.py", clips), "--train", *configs, "--output", folder / "out",
               "--device", "cpu", "--batch-size", 2]
    tiny.AcceleratorState._reset_state(reset_partial_state=True)
    assert run_here(*command) == 0
    return command, folder / "out"


@pytest.fixture
def rows(sweep):
    return rows_in(sweep[1])


def test_a_sweep_has_a_row_for_every_variant_and_every_baseline(sweep, rows):
    assert rows.keys() == {"lfq", "fsq", "no_quantizer", *UNTRAINED}
    assert {name for name, row in rows.items() if row["kind"] == "tokenizer"} == {"lfq", "fsq"}
    for name, row in rows.items():
        assert {"psnr", "ssim"} <= row["scores"].keys() and row["num_samples"] == 6 and row["num_blocks"] == 3, name
        low, high = row["intervals"]["psnr"]
        assert low < row["scores"]["psnr"] < high
        assert row["protocol_hash"] == rows["lfq"]["protocol_hash"] and row["protocol"]["dataset"] == "stripes"
        assert row["throughput"]["encode_frames_per_second"] > 0 and row["peak_memory_gib"] > 0.05
        assert row["versions"]["torch"] == torch.__version__ and row["hardware"]["processes"] == 1
        assert not row["unreadable"]
        assert row["videos"] == [f"videos/{name}_{number}.mp4" for number in (0, 1)]  # those that may be shown
        assert row["original_videos"] == ["videos/original_0.mp4", "videos/original_1.mp4"]
        assert all((sweep[1] / video).stat().st_size for video in row["videos"] + row["original_videos"])
    for row in (rows["lfq"], rows["no_quantizer"]):
        flops = row["training"]["flops"]
        assert row["training"] == {"config": str(sweep[0][3]), "steps": 2, "flops": flops, "seed": 0}
    entropy = 3 * 2 * (2 * 3 * 8**2) * 2**3 * 2**3  # two products of 2 x 3 x 8 x 8 positions, forward and backward
    assert rows["lfq"]["training"]["flops"] - rows["no_quantizer"]["training"]["flops"] == 2 * entropy
    assert rows["thumbnail"]["training"] is None
    assert rows["lfq"]["parameters"]["encoder"] > 1000 and rows["x264"]["parameters"]["encoder"] == 0


def test_rates_are_those_of_the_reference_and_the_bits_are_all_counted(rows):
    # of 5 frames of 32 x 32 and stride 2 x 2 x 2: 3 x 16 x 16 positions, of 6 and of 9 bits
    rates = {name: 3 * 16 * 16 * bits / (5 * 32 * 32) for name, bits in (("lfq", 6), ("fsq", 9))}
    for name, rate in rates.items():
        assert rows[name]["scores"]["bits_per_pixel"] == pytest.approx(rate)
        assert rows[name]["scores"]["bits_per_second"] == pytest.approx(rate * 32 * 32 * 8)  # at 8 frames per second
        assert len(rows[name]["curve"]) == 1
    assert rows["thumbnail"]["scores"]["bits_per_pixel"] == pytest.approx(rates["fsq"])  # the higher of two
    for name in ("x264", "x265"):
        assert 0.1 < rows[name]["scores"]["bits_per_pixel"] <= rates["fsq"]
        assert len(rows[name]["curve"]) == 4  # half and twice the rate, and the other tokenizer's
        spent = [point["bits_per_pixel"] for point in rows[name]["curve"]]
        assert spent == sorted(spent) and spent[1] <= rates["lfq"] + 1e-9
    assert "bits_per_pixel" not in rows["no_quantizer"]["scores"] and rows["no_quantizer"]["codebook"] is None


def test_rows_have_the_use_of_the_codebook(rows):
    book = rows["fsq"]["codebook"]
    assert book["size"] == 512 and book["num_codebooks"] == 1 and len(book["histogram"]) <= 512
    assert book["histogram"] == sorted(book["histogram"], reverse=True)
    assert sum(book["histogram"]) == 6 * 3 * 16 * 16
    assert len(book["histogram"]) / 512 == pytest.approx(rows["fsq"]["scores"]["codebook_usage"])
    entropies, = book["digit_entropies"]
    assert len(entropies) == 3 and all(0 <= entropy <= math.log(8) + 1e-9 for entropy in entropies)


def test_the_table_and_the_page_have_every_row(sweep, rows):
    table, page = (sweep[1] / "table.md").read_text(), (sweep[1] / "report.html").read_text()
    for row in rows.values():
        assert f"| {row['title']} |" in table and row["title"].split("'")[0] in page
    assert "PSNR at the rate of LFQ, 0.9000 bits/pixel: Thumbnail " in table and "\N{PLUS-MINUS SIGN}" in table


def test_rates_are_not_compared_without_the_baselines_psnr(rows):
    assert any("PSNR at the rate" in note for note in footnotes([*rows.values()]))
    for row in rows.values():
        row["curve"] = [point | {"psnr": None} for point in row["curve"]]
    assert not any("PSNR at the rate" in note for note in footnotes([*rows.values()]))


def test_the_same_command_recomputes_nothing_but_rows_that_are_deleted_or_half_written(sweep, rows, caplog):
    command, output = sweep
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".json", ".safetensors")}
    with caplog.at_level("INFO"):
        assert run_here(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert caplog.text.count("is already measured") == 6 and caplog.text.count("is already trained") == 3
    assert "measuring" not in caplog.text
    (output / "x265.json").unlink()
    whole = (output / "thumbnail.json").read_text()
    (output / "thumbnail.json").write_text(whole[:len(whole) // 2])
    with caplog.at_level("INFO"):
        assert run_here(*command) == 0
    assert caplog.text.count("measuring") == 2 and "measuring Thumbnail" in caplog.text
    assert {path.name for path in before if path.stat().st_mtime_ns != before[path]} == {"x265.json", "thumbnail.json"}
    for name in ("x265", "thumbnail"):
        new = rows_in(output)[name]
        assert new["scores"] == rows[name]["scores"] and new["fingerprint"] == rows[name]["fingerprint"]


def test_latents_stand_beside_a_tokenizer_whatever_else_fails_and_another_limit_is_another_protocol(
        clips, tmp_path, capsys):
    torn = save_tokenizer(tmp_path / "torn", bits=4)
    (torn / "model.safetensors").unlink()
    short = write_config(tmp_path / "short.py", tiny_config(clips, data__train__dataset__num_frames=99))
    command = [*command_of(tmp_path, clips), torn, "--train", short, "--metrics", "PSNR"]
    assert run_here(*command) == 1
    printed = capsys.readouterr()
    assert f"error: {torn}: no tokenizer at" in printed.err and "error: training LFQ: " in printed.err
    rows = rows_in(tmp_path / "out")
    assert rows.keys() == {"mine", "mine_unquantized", *UNTRAINED}
    assert rows["mine_unquantized"]["kind"] == "baseline" and rows["mine_unquantized"]["notes"]
    assert rows["mine_unquantized"]["scores"]["psnr"] != rows["mine"]["scores"]["psnr"]
    assert rows["mine"]["scores"].keys() == {"psnr", "bits_per_pixel", "bits_per_second"}
    assert run_here(*command, "--limit", 2) == 1
    limited = rows_in(tmp_path / "out")["mine"]
    assert limited["num_samples"] == 2 and limited["num_blocks"] == 2
    assert limited["protocol_hash"] != rows["mine"]["protocol_hash"]


def test_a_score_that_is_not_a_number_is_missing_from_a_row(clips, tmp_path):
    command = [*command_of(tmp_path, clips), "--metrics", "PSNR"]
    weights = tmp_path / "mine" / "tokenizer" / "model.safetensors"
    tensors = load_file(weights)
    tensors["decoder.conv_out.bias"].fill_(math.nan)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert run_here(*command) == 0
    row = rows_in(tmp_path / "out")["mine"]
    assert row["scores"]["psnr"] is None and [point["psnr"] for point in row["curve"]] == [None]


def test_a_row_of_a_hub_id_has_its_commit(clips, tmp_path, monkeypatch):
    add_commit(use_cache(tmp_path / "hub", monkeypatch), "user/name", "f" * 40, save_tokenizer(tmp_path / "mine"),
               subfolder="tokenizer", refs=("v1",))
    monkeypatch.setattr(results, "measure_cost", lambda *_: {})  # takes seconds
    suite = write_suite(tmp_path / "stripes.py", clips, clips_per_video=1)
    assert run_here("--suite", suite, "--tokenizer", "user/name", "--revision", "v1", "--subfolder", "tokenizer",
                    "--metrics", "PSNR", "--output", tmp_path / "out", "--device", "cpu") == 0
    rows = rows_in(tmp_path / "out")
    assert rows["name"]["source"] == {"repo": "user/name", "revision": "v1", "subfolder": "tokenizer",
                                      "commit": "f" * 40}
    assert rows["x264"]["source"] is None


def test_x264_of_a_row_is_what_the_codec_gives_clip_by_clip(sweep, rows, clips):
    dataset = build_dataset(load_suite(str(sweep[0][1]), FOLDER).protocol, clips)
    codec, errors = X264(bits_per_pixel=3 * 16 * 16 * 9 / (5 * 32 * 32)), []
    for number in range(6):
        pixels = dataset[number]["pixels"][None]
        errors.append((codec(pixels)[0] - pixels).div(2).square().mean((0, 1, 3, 4)))
    psnr = (-10 * torch.stack(errors).log10()).mean().item()
    assert rows["x264"]["scores"]["psnr"] == pytest.approx(psnr, abs=1e-4)
    assert rows["x264"]["scores"]["bits_per_pixel"] == pytest.approx(codec.num_bits / codec.num_pixels)


def test_a_corrupt_clip_is_named_skipped_and_marked(clips, tmp_path, capsys):
    folder = shutil.copytree(clips, tmp_path / "clips")
    (folder / "1.mp4").write_bytes((folder / "1.mp4").read_bytes()[:700])
    command = [*command_of(tmp_path, folder), "--metrics", "PSNR"]
    for _ in range(2):  # and again when the rows are only read
        assert run_here(*command) == 1
        printed = capsys.readouterr()
        assert printed.err.count("error: ") == 5 and "1.mp4" in printed.err
        assert "mine* " in printed.out and "mine: 1 unreadable files were skipped: 1.mp4" in printed.out
    row = rows_in(tmp_path / "out")["mine"]
    assert row["num_samples"] == 4 and row["num_blocks"] == 2 and list(row["unreadable"]) == ["1.mp4"]


@pytest.mark.parametrize(("arguments", "words", "suite"), [
    (["--data", "nowhere"], "nowhere", {}), (["--data", "empty"], "needed files that end in", {}),
    ([], "needs 7 samples, got 6", {"num_samples": 7}),
    (["--suite", "samples_vide"], "did you mean samples_video", {}),
    (["--metrics", "PSNRR"], "has no metric PSNRR; it has PSNR, SSIM, Codebook", {}),
    ([], "weights/lpips_alexnet", {"metrics": (PSNR, ALEX)})])
def test_missing_data_is_one_error_line_and_nothing_is_written(
        arguments, words, suite, clips, tmp_path, capsys, monkeypatch):
    frames._lpips.cache_clear()
    for name, value in (("TOOLKIT_CACHE", str(tmp_path / "cache")), ("PIP_INDEX_URL", "http://127.0.0.1:9/simple"),
                        ("PIP_RETRIES", "0")):
        monkeypatch.setenv(name, value)
    command = command_of(tmp_path, clips, **suite)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_here(*command, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 1 and words in printed.err and printed.out == ""
    assert not (tmp_path / "out").exists()


def test_a_metric_has_a_column_and_a_baseline_a_row_without_an_edit(tmp_path, monkeypatch):
    for registry in (METRICS, BASELINES):
        monkeypatch.setattr(registry, "_module_dict", dict(registry.module_dict))

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

    clips = write_clips(tmp_path / "clips", count=2, num_frames=5)
    command = command_of(tmp_path, clips, metrics=(PSNR, {"type": "Sharpness"}, CODEBOOK), clips_per_video=1)
    measured = []  # registered in this process only, so costs are measured here
    monkeypatch.setattr(results, "measure_cost", lambda spec, *_: measured.append(spec["type"]) or {})
    assert run_here(*command, "--baseline", "Grey", "--baseline", "MeanColour") == 0
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
    directory, protocol = save_tokenizer(tmp_path), Protocol("any", "all", None, 32, ())
    entry = tokenizer_entry(directory, protocol, name="a", title="a")
    assert entry.rate == 6 * 16 * 16 / 32**2  # bits x positions / pixels
    for kind in (MAGVIT2Encoder, Tokenizer):
        monkeypatch.setattr(kind, "grid", lambda self, size: (1, 1, 64))
    sequence = tokenizer_entry(directory, protocol, name="b", title="b")
    assert sequence.rate == 6 * 64 / 32**2
    thumbnail, *_ = baseline_entries(["Thumbnail"], [sequence], protocol)
    _, indices = build_codec(thumbnail.spec, "cpu")(torch.zeros(1, 3, 1, 32, 32))
    assert indices.shape == (1, 1, 8, 8, 1)
    assert indices.numel() * math.log2(build_codec(thumbnail.spec, "cpu").codebook_size) == 6 * 64


def test_values_of_8_bits_reach_the_metrics():
    pixels = torch.rand(1, 3, 1, 4, 4) * 2.2 - 1.1
    levels = (cast_values(pixels, "uint8") + 1) * 127.5
    assert torch.equal(cast_values(pixels, "float"), pixels)
    assert (levels - levels.round()).abs().max() < 1e-4 and levels.min() >= 0 and levels.max() <= 255


def test_committed_rows_have_the_fingerprints_that_a_run_computes():
    """x264's needs no weights: its identity is its rates and the versions of the codecs."""
    committed = rows_in(FOLDER / "results" / "samples_video")
    row, others = committed["x264"], [committed[name]["scores"]["bits_per_pixel"] for name in ("lfq", "vq")]
    if row["versions"]["av"] != av.__version__:
        pytest.skip("another version of the codecs is another identity")
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


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(clips, tmp_path):
    command = [*command_of(tmp_path, clips, metrics=(PSNR, SSIM, ALEX, CODEBOOK)), "--batch-size", 2]
    assert run_here(*command, "--output", tmp_path / "one") == 0
    done = run_in_processes(2, *command, "--output", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = rows_in(tmp_path / "one"), rows_in(tmp_path / "two")
    assert one.keys() == two.keys() and done.stdout.count("suite stripes") == 2  # scores and costs, once each
    for name in one:
        for key in ("scores", "intervals"):
            for score, value in one[name][key].items():
                assert two[name][key][score] == pytest.approx(value, rel=1e-5, abs=1e-6), (name, score)
        for key in ("num_samples", "num_blocks", "fingerprint", "videos", "codebook", "protocol_hash"):
            assert one[name][key] == two[name][key], (name, key)
        assert two[name]["hardware"]["processes"] == 2 and all((tmp_path / "two" / v).is_file()
                                                               for v in two[name]["videos"])


@pytest.mark.slow
def test_frechet_distances_of_few_samples_are_marked_and_targets_are_seen_once(tmp_path, monkeypatch):
    clips = write_clips(tmp_path / "clips", count=4, num_frames=12)
    seen = []
    network = frechet._i3d()
    monkeypatch.setattr(frechet, "_i3d", lambda: lambda x: seen.append(len(x)) or network(x))
    command = command_of(tmp_path, clips, metrics=(PSNR, INCEPTION, I3D), num_frames=10, clips_per_video=1)
    assert run_here(*command) == 0
    rows = rows_in(tmp_path / "out")
    assert sum(seen) == 4 * (1 + len(rows))  # the targets, and each row's reconstructions
    (tmp_path / "out" / "thumbnail.json").unlink()
    assert run_here(*command) == 0
    assert sum(seen) == 4 * (2 + len(rows))  # the targets' features are those of the run before
    assert rows_in(tmp_path / "out")["thumbnail"]["scores"] == rows["thumbnail"]["scores"]
    for row in rows.values():
        assert {"rfid", "kid", "rfvd", "kvd"} <= row["scores"].keys()
        assert row["marks"] == {"rfid": "few samples", "rfvd": "few samples"}
        assert {"weights/inception_2015", "weights/i3d_kinetics400"} <= row["assets"].keys()
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("\N{DAGGER}") == 2 * len(rows) + 1 and "fewer than 2,000 clips or images" in table


@pytest.mark.slow
def test_the_sample_suite_runs_as_it_is_shipped(clips, tmp_path):
    configs = [write_config(tmp_path / f"{name}.py", tiny_config(
        clips, tokenizer__quantizer=dict(_delete_=True, type=name, bits=6))) for name in ("LFQ", "BSQ")]
    assert run_here("--train", *configs, "--steps", 2, "--limit", 3, "--metrics", "PSNR", "SSIM", "MSSSIM", "Codebook",
                    "--output", tmp_path / "out", "--device", "cpu") == 0
    rows = rows_in(tmp_path / "out")
    assert rows.keys() == {"lfq", "bsq", "no_quantizer", *UNTRAINED}
    assert rows["lfq"]["num_blocks"] == 3 and rows["lfq"]["assets"].keys() == {
        "clips/carphone", "clips/city", "clips/introduction"}
    assert len(rows["lfq"]["videos"]) == 1  # of the city alone


def test_the_suites_are_listed(capsys):
    assert run_here("--suite", "list") is None
    printed = capsys.readouterr().out
    assert all(f"{path.stem} " in printed for path in (FOLDER / "suites").glob("[!_]*.py"))

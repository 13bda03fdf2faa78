"""Experiment trackers by accelerate's names."""

import pytest
import torch
from accelerate import tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.tiny import build, metric_lines, tiny_config, train

from toolkit.config import ConfigError
from toolkit.data import read_image
from toolkit.training.logging import RunLog


class Recorder(tracking.GeneralTracker):
    """A tracker that records its calls, under the name of one that is not installed."""

    name, requires_logging_directory, tracker = "wandb", False, None
    lines: list = []

    def __init__(self, project: str):
        super().__init__()
        self.lines.append(("project", project))

    def log(self, values, step=None, **_):
        self.lines.append((step, values))

    def log_images(self, values, step=None, **_):
        self.lines.append((step, {name: len(pictures) for name, pictures in values.items()}))

    def finish(self):
        self.lines.append("finished")


def test_a_run_logs_to_the_trackers_that_the_config_names(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(tracking, "_available_trackers", ["tensorboard", "wandb"])
    monkeypatch.setattr(Recorder, "lines", [])
    train(tiny_config(clips, training__max_steps=1, training__trackers=["wandb"]), tmp_path / "name")
    logged = next(line for line in metric_lines(tmp_path / "name") if line["split"] == "train")
    assert Recorder.lines[0] == ("project", "name") and Recorder.lines[-1] == "finished"
    assert Recorder.lines[1] == (1, {f"train/video/{name}": value for name, value in logged.items()
                                     if name not in ("step", "split", "modality", "time")})
    assert (1, {"samples/video": 1}) in Recorder.lines
    assert any("val/video/psnr" in values for step, values in Recorder.lines[1:-1] if step == 1)
    assert not (tmp_path / "name" / "events").exists()


def test_tensorboard_is_the_default_and_none_is_possible(clips, tmp_path):
    for name, changes in dict(default={}, none=dict(training__trackers=[])).items():
        train(tiny_config(clips, training__max_steps=1, **changes), tmp_path / name)
    assert list((tmp_path / "default" / "events").glob("events.out.tfevents*"))
    assert not (tmp_path / "none" / "events").exists() and metric_lines(tmp_path / "none")


def test_samples_are_clamped_and_inputs_are_above_reconstructions(clips, tmp_path):
    trainer = build(tiny_config(clips), tmp_path)
    target, reconstruction = torch.full((1, 3, 2, 4, 4), -1.5), torch.full((1, 3, 2, 4, 4), 3.0)
    log = RunLog(tmp_path, trainer.settings, step=0, active=True)
    log.write_samples("x", 1, target, reconstruction)
    log.close()
    expected = torch.cat([torch.full((3, 1, 4, 4), -1.0), torch.ones(3, 1, 4, 4)], dim=2)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    pictures = [events.Images(f"samples/{name}")[0].encoded_image_string for name in ("x", "x_clip")]
    for image in (tmp_path / "samples" / "x_step_1.png", *pictures):
        assert torch.equal(read_image(image), expected)


@pytest.mark.parametrize(("names", "words"), [
    (["tensorbord"], r"among .*tensorboard.*, got 'tensorbord'"), ("wandb", "must be a list of names"),
    (["tensorboard", "wandb"], r"needs wandb, which is not installed; pip install it, or choose from .*tensorboard")])
def test_a_tracker_that_is_unknown_or_not_installed_is_refused(clips, tmp_path, monkeypatch, names, words):
    monkeypatch.setattr(tracking, "_available_trackers", ["tensorboard"])
    with pytest.raises(ConfigError, match=words):
        build(tiny_config(clips, training__trackers=names), tmp_path / "run")
    assert not (tmp_path / "run").exists() and torch.is_grad_enabled()

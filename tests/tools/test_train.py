"""tools/train.py as its users run it."""

import json
import shutil

import av
import pytest
import torch
from PIL import Image
from tools.commands import error_of, run, run_here, succeed
from training.tiny import DISCRIMINATOR, metric_lines, tiny_config, write_clips, write_config, write_images

from toolkit import load_config

STEPS = 40


@pytest.fixture(scope="module")
def config(clips, tmp_path_factory):
    """A config file: 40 steps with a GAN and a worker that reads ahead."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    return write_config(path, tiny_config(clips, gan=True, training__max_steps=STEPS, training__validate_every=STEPS,
                                          data__train__num_workers=1, training__checkpoints=dict(every=20, keep=1)))


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    """(work dir, finished process) of a run from start to end."""
    work_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    return work_dir, succeed("train", config, "--work-dir", work_dir)


def test_a_run_succeeds_and_prints_its_table(uninterrupted):
    work_dir, done = uninterrupted
    assert "video, validation set" in done.stdout and str(work_dir / "tokenizer") in done.stdout
    for words in ("tokenizer", "thumbnail", "mean colour", "PSNR (dB)", "SSIM", "bits/pixel"):
        assert words in done.stdout
    assert f"{STEPS} steps in" in done.stderr and "peak memory" in done.stderr


def test_a_run_writes_config_logs_checkpoints_and_results(uninterrupted, config):
    work_dir, _ = uninterrupted
    assert {path.name for path in work_dir.iterdir()} >= {
        "checkpoints", "config.py", "events", "metrics.jsonl", "run.json", "results.json", "samples",
        "tokenizer"}
    assert load_config(work_dir / "config.py").to_dict() == load_config(config).to_dict()
    assert [path.name for path in (work_dir / "checkpoints").iterdir()] == [f"step_{STEPS}"]
    assert list((work_dir / "events").glob("events.out.tfevents*"))
    provenance = json.loads((work_dir / "run.json").read_text())
    assert provenance["torch"] == torch.__version__ and provenance["seed"] == 0 and provenance["plugins"] == {}
    assert provenance["command"][1] == str(config) and provenance["num_processes"] == 1
    # inputs above reconstructions
    with Image.open(work_dir / "samples" / f"video_step_{STEPS}.png") as picture:
        assert picture.size == (2 * 16, 2 * 16)  # two clips side by side
    with av.open(str(work_dir / "samples" / f"video_step_{STEPS}.mp4")) as video:
        assert len(list(video.decode(video=0))) == 5


def test_a_run_logs_every_step_and_its_scores(uninterrupted):
    work_dir, _ = uninterrupted
    lines = metric_lines(work_dir)
    train = [line for line in lines if line["split"] == "train" and "total" in line]
    assert [line["step"] for line in train] == list(range(1, STEPS + 1))
    assert {"reconstruction", "commitment", "adversarial", "lecam", "learning_rate"} <= set(train[0])
    validation, = [line for line in lines if line["split"] == "val"]
    scores = json.loads((work_dir / "results.json").read_text())["video"]["tokenizer"]
    assert {name: validation[name] for name in scores} == pytest.approx(scores, rel=1e-6)
    # 6 bits for (3, 8, 8) positions of 5 x 16 x 16 pixels
    assert scores["bits_per_pixel"] == pytest.approx(6 * 3 * 8 * 8 / (5 * 16 * 16))


def test_a_used_work_dir_is_refused_without_resume(uninterrupted, config):
    assert "--resume" in error_of("train", config, "--work-dir", uninterrupted[0])


def test_resume_without_a_checkpoint_starts_from_the_first_step(clips, tmp_path, caplog):
    config = write_config(tmp_path / "tiny.py", tiny_config(clips, training__max_steps=1))
    with caplog.at_level("WARNING"):
        assert run_here("train", config, "--work-dir", tmp_path / "run", "--resume") is None
    assert "nothing to resume" in caplog.text
    assert [line["step"] for line in metric_lines(tmp_path / "run") if "total" in line] == [1]


@pytest.mark.slow
def test_a_failing_command_prints_one_line_and_has_an_exit_code(tmp_path):
    done = run("train", tmp_path / "missing.py")
    assert done.returncode == 1
    assert done.stderr.startswith("error: config file") and done.stderr.count("\n") == 1
    assert str(tmp_path / "missing.py") in done.stderr and done.stdout == ""


ADVERSARIAL = dict(loss=dict(type="NonSaturating"), weight=0.1)
MISTAKES = {
    "wrong top-level key": (dict(trainin=dict(max_steps=3)), ["trainin", "did you mean 'training'"]),
    "wrong training key": (dict(training__max_step=3), ["max_step", "did you mean 'max_steps'"]),
    "wrong type name": (dict(tokenizer__quantizer__type="LFQQ"), ["quantizer", "'LFQQ'", "did you mean 'LFQ'"]),
    "wrong loss name": (dict(objective__losses__reconstruction__loss__type="L22"), ["loss", "'L22'", "'L2'"]),
    "wrong argument of a component": (dict(tokenizer__quantizer__levels=3),
                                 ["quantizer 'LFQ'", "unexpected 'levels'", "bits"]),
    "wrong data key": (dict(data__train__batchsize=3), ["batchsize", "did you mean 'batch_size'"]),
    "missing data path": (dict(data__train__dataset__path="no/such/folder"), ["no/such/folder", "does not exist"]),
    "clips too short": (dict(data__train__dataset__num_frames=9), ["needed 9 frames", "got 6", "0.mp4"]),
    "another size than the discriminator's": (
        dict(data__train__dataset__size=24, discriminator=DISCRIMINATOR, objective__adversarial=ADVERSARIAL),
        ["(5, 16, 16)", "(5, 24, 24)", "discriminator.size"]),
    "a discriminator without its objective": (dict(discriminator=DISCRIMINATOR),
                                              ["discriminator and objective.adversarial belong together"]),
    "no validation data": (dict(data__val=None), ["data.val is dict(dataset="]),
    "a section that is none": (dict(objective=None), ["config section objective is a dict"]),
    "wrong metric name": (dict(metrics=[dict(type="PSNRR")]), ["metric", "'PSNRR'", "did you mean 'PSNR'"]),
    "a reconstruction loss as adversarial loss": (
        dict(discriminator=DISCRIMINATOR, objective__adversarial=dict(loss=dict(type="L2"))),
        ["objective.adversarial.loss takes a AdversarialLoss, got L2"]),
    "an adversarial loss as reconstruction loss": (dict(objective__losses__reconstruction__loss__type="Hinge"),
                                        ["objective.losses.reconstruction.loss takes a Loss, got Hinge"]),
    "R1 every zero steps": (
        dict(discriminator=DISCRIMINATOR, objective__adversarial=dict(**ADVERSARIAL, r1=dict(weight=1.0, every=0))),
        ["r1.every"]),
    "a discriminator that is no dict": (dict(discriminator="none", objective__adversarial=ADVERSARIAL),
                                        ["discriminator is dict(type=...)"]),
    "a fraction of a batch": (dict(data__train__batch_size=1.5), ["whole numbers as batch_size"]),
    "words for a switch": (dict(training__activation_checkpointing="off"), ["activation_checkpointing must be True"]),
    "an adversarial objective without its discriminator": (
        dict(objective__adversarial=ADVERSARIAL), ["discriminator and objective.adversarial belong together"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_config_is_one_error(clips, tmp_path, mistake):
    changes, words = MISTAKES[mistake]
    config = write_config(tmp_path / "tiny.py", tiny_config(clips, **changes))
    message = run_here("train", config, "--work-dir", tmp_path / "run")
    assert isinstance(message, str) and message.startswith("error: ") and message.count("error: ") == 1
    assert all(word in message for word in words), message
    if mistake != "clips too short":  # which lists the files below
        assert "\n" not in message.rstrip()


def test_a_mixture_with_a_single_discriminator_is_one_error(clips, tmp_path):
    config = tiny_config(clips, gan=True)
    images = dict(type="Images", path=str(write_images(tmp_path / "images")), size=16)
    config["data"]["train"] = [config["data"]["train"], dict(dataset=images, batch_size=2)]
    message = error_of("train", write_config(tmp_path / "tiny.py", config), "--work-dir", tmp_path / "run")
    assert message.startswith("error: data.train mixes image and video") and "discriminator=dict(image=" in message


def test_a_malformed_option_is_one_error(clips, tmp_path):
    config = write_config(tmp_path / "tiny.py", tiny_config(clips))
    message = error_of("train", config, "--work-dir", tmp_path / "run", "--cfg-options", "training.max_steps")
    assert message == "error: --cfg-options takes KEY=VALUE words, got 'training.max_steps'."
    message = error_of("train", config, "--work-dir", tmp_path / "run", "--cfg-options", "data.train.dataset.path=[a,b")
    assert "got 'data.train.dataset.path=[a,b' (no closing ])" in message


@pytest.mark.parametrize("path", ["2024", "[2024/0.mp4,2024/1.mp4]", "2024/0.mp4,2024/1.mp4"])
def test_a_folder_that_looks_like_a_number_and_lists_are_data_paths(clips, tmp_path, monkeypatch, capsys, path):
    config = write_config(tmp_path / "tiny.py", tiny_config(clips))
    (tmp_path / "2024").symlink_to(clips)
    monkeypatch.chdir(tmp_path)
    options = [f"data.{split}.dataset.path={path}" for split in ("train", "val")]
    assert run_here("train", config, "--dry-run", "--cfg-options", *options, "training.max_steps=3",
                    "--cfg-options", "training.eps=1e-7") is None
    assert "time for 3 steps" in capsys.readouterr().out


def test_an_error_writes_no_checkpoint_and_the_work_dir_can_be_used_again(tmp_path):
    short, work_dir = write_clips(tmp_path / "short", num_frames=3), tmp_path / "run"
    config = write_config(tmp_path / "tiny.py", tiny_config(short, training__max_steps=1))
    assert run_here("train", config, "--work-dir", work_dir).startswith("error: ")
    shutil.rmtree(short)
    write_clips(short)
    assert run_here("train", config, "--work-dir", work_dir) is None

"""Whole runs at tiny size, in this process, with MAGVIT-v2's GAN or none."""

import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file
from training.tiny import (
    GAN_TERMS,
    assert_equal,
    build,
    copy_checkpoint,
    metric_lines,
    patchgan_config,
    stripes,
    tensors_of,
    tiny_config,
    train,
    train_lines,
    write_clips,
)

from toolkit import load_tokenizer
from toolkit.build import build_run
from toolkit.config import ConfigError
from toolkit.profiling.training_flops import TrainingFlops
from toolkit.training.checkpoint import checkpoints_in
from toolkit.training.nonfinite import DivergenceError
from toolkit.training.validation import as_codec


@pytest.fixture(scope="module")
def gan_config(clips):
    """A GAN with all its terms, accumulation, EMA, a checkpoint after each step."""
    return tiny_config(clips, gan=True, training__gradient_accumulation_steps=2, data__train__batch_size=1,
                       training__checkpoints=dict(every=1, keep=None), training__warmup_steps=2)


@pytest.fixture(scope="module")
def undisturbed(gan_config, tmp_path_factory):
    """The work dir of a run of four steps."""
    work_dir = tmp_path_factory.mktemp("undisturbed")
    train(gan_config, work_dir)
    return work_dir


def test_lines_have_the_rate_of_their_own_step_and_r1_at_multiples_of_its_interval(undisturbed):
    rates = {line["step"]: line["learning_rate"] for line in train_lines(undisturbed)}
    # steps are counted from 0 in the schedule: 1e-3 * s / 2, then a cosine over 4 steps
    expected = [0, 0.5, (1 + math.cos(math.pi / 2)) / 2, (1 + math.cos(3 * math.pi / 4)) / 2]
    assert rates == pytest.approx({step + 1: 1e-3 * rate for step, rate in enumerate(expected)})
    assert [line["step"] for line in train_lines(undisturbed) if "r1" in line] == [1, 3]


def test_a_resumed_run_equals_an_undisturbed_one(undisturbed, gan_config, tmp_path):
    copy_checkpoint(undisturbed, tmp_path, step=2)
    (tmp_path / "checkpoints" / ".step_3.partial").mkdir()  # of an attempt that was killed while writing
    (tmp_path / "checkpoints" / ".step_3.partial" / "state.pt").write_bytes(b"torn")
    shutil.copy(undisturbed / "metrics.jsonl", tmp_path)  # with lines of later steps
    train(gan_config, tmp_path, resume=True)
    for name in ("checkpoints/step_4/tokenizer", "checkpoints/step_4/ema", "checkpoints/step_4/objective",
                 "checkpoints/step_4/discriminator_video", "tokenizer/model"):
        assert_equal(*(load_file(work_dir / f"{name}.safetensors") for work_dir in (undisturbed, tmp_path)))
    assert [line["step"] for line in train_lines(tmp_path)] == [1, 2, 3, 4]
    clocks = ("time", "seconds_per_step")
    one, other = ([{k: v for k, v in line.items() if k not in clocks} for line in train_lines(work_dir)]
                  for work_dir in (undisturbed, tmp_path))
    assert one == other


def test_resuming_a_finished_run_changes_nothing(undisturbed, gan_config, tmp_path):
    copy = Path(shutil.copytree(undisturbed, tmp_path / "copy"))
    train(gan_config, copy, resume=True)
    assert_equal(*(load_file(folder / "tokenizer" / "model.safetensors") for folder in (undisturbed, copy)))
    assert [line["step"] for line in train_lines(copy)] == [1, 2, 3, 4]


def test_a_run_that_is_beyond_its_last_step_is_refused(undisturbed, gan_config, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    before = (tmp_path / "run" / "config.py").read_text()
    with pytest.raises(ConfigError, match=r"max_steps=3, .* is less than the step of .*step_4; set a larger"):
        build(gan_config | {"training": gan_config["training"] | {"max_steps": 3}}, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "config.py").read_text() == before


def test_a_divergence_names_the_last_checkpoint_with_good_steps(clips, tmp_path):
    config = tiny_config(clips, gan=True, training__max_steps=20, training__learning_rate=1.0,
                         training__max_skipped_in_a_row=3, training__checkpoints=dict(every=1, keep=3))
    with pytest.raises(DivergenceError, match=r"4 skipped steps in a row.*from step_(\d+) skipped every.*"
                                              r"resume from step_") as caught:
        build(config, tmp_path).run()
    suspect, good = re.findall(r"step_(\d+)", str(caught.value))
    assert int(suspect) == int(good) + 1
    shutil.rmtree(tmp_path / "checkpoints" / f"step_{suspect}")
    config["training"] |= dict(learning_rate=1e-4, max_steps=int(good) + 2)
    assert train(config, tmp_path, resume=True).finite_check.num_skipped == 0


def test_a_divergence_names_all_checkpoints_of_skipped_steps(gan_config, tmp_path):
    trainer = build(gan_config, tmp_path)
    trainer.step, trainer.finite_check.in_a_row = 6, 4  # interrupted and resumed at step 5, during the skips
    for step in (2, 3, 5):
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
    assert "from step_3 and step_5 skipped every" in trainer._checkpoint_advice()
    assert trainer._checkpoint_advice().endswith("delete them and resume from step_2.")


def test_checkpoints_load_as_data_only(undisturbed):
    checkpoint = undisturbed / "checkpoints" / "step_4"
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "discriminator_video.safetensors", "ema.safetensors", "objective.safetensors", "process_0.pt", "state.pt",
        "tokenizer.safetensors"]
    shared = torch.load(checkpoint / "state.pt", weights_only=True)
    own = torch.load(checkpoint / "process_0.pt", weights_only=True)
    assert shared["step"] == 4 and set(shared["optimizers"]) == {"tokenizer", "discriminator_video"}
    assert own["data"]["draws"] == 8  # two micro-batches a step


def test_lecam_averages_are_in_the_checkpoint(undisturbed):
    states = [load_file(undisturbed / "checkpoints" / f"step_{step}" / "objective.safetensors") for step in (1, 4)]
    name = "adversaries.video.lecam.average_real"
    assert all(state[name] != 0 for state in states) and states[0][name] != states[1][name]


def test_the_exported_weights_are_the_moving_average_by_hand(undisturbed):
    # timm's convention: the average begins with the weights after the first step
    steps = [load_file(undisturbed / "checkpoints" / f"step_{step}" / "tokenizer.safetensors") for step in (1, 2, 3, 4)]
    average = {name: tensor.double() for name, tensor in steps[0].items()}
    for state in steps[1:]:
        average = {name: 0.9 * average[name] + 0.1 * state[name].double() for name in average}
    exported = load_file(undisturbed / "tokenizer" / "model.safetensors")
    torch.testing.assert_close({name: tensor.float() for name, tensor in average.items()}, exported, atol=1e-6, rtol=0)
    assert any(not torch.equal(exported[name], steps[-1][name]) for name in exported)


@pytest.mark.parametrize("every", [1, 3])
def test_keep_bounds_the_checkpoints_of_a_run(clips, tmp_path, every):
    train(tiny_config(clips, training__checkpoints=dict(every=every, keep=2), training__max_steps=4), tmp_path)
    assert [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == ["step_3", "step_4"]


def test_a_run_interrupted_while_it_writes_a_checkpoint_ends_with_that_checkpoint(clips, tmp_path, monkeypatch):
    """Writing a second checkpoint of the same step would briefly remove the first."""
    trainer = build(tiny_config(clips, training__max_steps=4, training__validate_every=4,
                                training__checkpoints=dict(every=2, keep=1)), tmp_path)
    write, written = trainer.checkpoints.write, []

    def interrupted(step, **state):
        os.kill(os.getpid(), signal.SIGTERM)
        written.append(step)
        return write(step, **state)

    monkeypatch.setattr(trainer.checkpoints, "write", interrupted)
    assert not trainer.run()
    assert written == [2] and [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == ["step_2"]
    assert not trainer.scores  # no validation at the end either


def test_without_ema_and_gan_the_trained_weights_are_exported_and_no_file_or_term_of_them_written(clips, tmp_path):
    trainer = train(tiny_config(clips, training__ema_decay=None, training__max_steps=2), tmp_path)
    assert_equal(tensors_of(trainer.tokenizer.network), load_file(tmp_path / "tokenizer" / "model.safetensors"))
    assert not set(train_lines(tmp_path)[0]) & GAN_TERMS
    assert {path.name for path in (tmp_path / "checkpoints" / "step_2").glob("*.safetensors")} == {
        "tokenizer.safetensors", "objective.safetensors"}


def test_a_run_on_the_quantizers_losses_alone(clips, tmp_path):
    train(tiny_config(clips, objective=dict(_delete_=True, losses=None), training__max_steps=1), tmp_path)
    line, = train_lines(tmp_path)
    assert {"commitment", "per_sample_entropy", "codebook_entropy", "total"} <= set(line)
    assert line["total"] == pytest.approx(0.25 * line["commitment"] + 0.1 * line["per_sample_entropy"]
                                          - 0.1 * line["codebook_entropy"], rel=1e-5)


def test_a_gan_that_starts_late(clips, tmp_path):
    config = tiny_config(clips, gan=True, training__max_steps=3, objective__adversarial__weight=[(2, 0.0), (2, 0.1)],
                         objective__adversarial__discriminator_weight=[(1, 0.0), (1, 1.0)])
    trainer = build(config, tmp_path)
    before = [parameter.detach().clone() for parameter in trainer.discriminators["video"].network.parameters()]
    assert trainer.run()
    lines = train_lines(tmp_path)
    assert [("discriminator" in line, "adversarial" in line) for line in lines] == [
        (False, False), (True, False), (True, True)]
    assert any(not torch.equal(*pair) for pair in zip(
        before, trainer.discriminators["video"].network.parameters(), strict=True))


def test_accumulation_equals_the_larger_batch(clips, tmp_path):
    """Of L2 and commitment, which are means over samples."""
    # A small eps would turn the rounding of gradients that are zero (biases before a norm) into whole steps.
    shared = dict(training__max_steps=1, training__eps=1e-3,
                  objective__quantizer=dict(commitment=0.25, per_sample_entropy=0.0, codebook_entropy=0.0))
    small = train(tiny_config(clips, data__train__batch_size=1, training__gradient_accumulation_steps=4, **shared),
                  tmp_path / "small")
    large = train(tiny_config(clips, data__train__batch_size=4, **shared), tmp_path / "large")
    tensors = [tensors_of(trainer.tokenizer.network) for trainer in (small, large)]
    torch.testing.assert_close(*tensors, atol=1e-5, rtol=0)
    lines = [train_lines(tmp_path / name)[0] for name in ("small", "large")]
    assert lines[0]["total"] == pytest.approx(lines[1]["total"], rel=1e-5)


@pytest.mark.parametrize("patchgan", [False, True])
def test_activation_checkpointing_changes_nothing(clips, tmp_path, patchgan):
    config = patchgan_config(clips, training__max_steps=2) if patchgan else tiny_config(
        clips, gan=True, training__max_steps=2)
    for wanted in (False, True):
        config["training"]["activation_checkpointing"] = wanted
        trainer = train(config, tmp_path / str(wanted))
        assert trainer.tokenizer.network.encoder.activation_checkpointing == wanted
    folders = [tmp_path / "False", tmp_path / "True"]
    files = [load_file(folder / "checkpoints" / "step_2" / "tokenizer.safetensors") for folder in folders]
    torch.testing.assert_close(*files, atol=1e-6, rtol=0)
    runs = [train_lines(folder) for folder in folders]
    for name in {"adaptive_weight", "adversarial", "reconstruction", "discriminator"} & runs[0][0].keys():
        assert [line[name] for line in runs[0]] == pytest.approx([line[name] for line in runs[1]], rel=1e-4)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_validation_and_export_are_float32_after_training_in_bf16(clips, tmp_path, ema_decay):
    trainer = train(tiny_config(clips, gan=True, training__max_steps=2, training__mixed_precision="bf16",
                                training__ema_decay=ema_decay), tmp_path)
    exported, pixels = load_tokenizer(tmp_path / "tokenizer"), stripes(1, num_frames=5, height=16, width=16)[None]
    with torch.no_grad():
        plain = exported(pixels)
        reconstruction, indices = as_codec(trainer.evaluated_tokenizer.eval())(pixels)
    assert all(tensor.dtype == torch.float32 for tensor in exported.state_dict().values())
    assert torch.equal(exported.tokenize(pixels), plain.indices) and torch.equal(indices, plain.indices)
    assert reconstruction.dtype == torch.float32 and torch.equal(reconstruction, plain.reconstruction)


def test_bf16_computes_both_networks_in_it_but_r1_in_float32(clips, tmp_path):
    trainer = build(tiny_config(clips, gan=True, training__max_steps=2, training__mixed_precision="bf16"), tmp_path)
    seen = {"tokenizer": [], "discriminator": []}
    trainer.tokenizer.network.encoder.conv_in.register_forward_hook(
        lambda conv, inputs, output: seen["tokenizer"].append((torch.is_grad_enabled(), output.dtype)))
    trainer.discriminators["video"].network.conv_in.register_forward_hook(
        lambda conv, inputs, output: seen["discriminator"].append(output.dtype))
    trainer.run()
    assert {dtype for training, dtype in seen["tokenizer"] if training} == {torch.bfloat16}
    num_r1 = len([line for line in metric_lines(tmp_path) if "r1" in line])
    # each step: once for the generator, once for the discriminator, and R1 at its steps
    assert num_r1 and seen["discriminator"].count(torch.float32) == num_r1
    assert seen["discriminator"].count(torch.bfloat16) == 4


def test_fp16_without_a_gpu_is_refused(clips, tmp_path):
    with pytest.raises(ConfigError, match="fp16"):
        build(tiny_config(clips, training__mixed_precision="fp16"), tmp_path)


def test_frozen_networks_are_in_no_checkpoint(clips, tmp_path):
    size = dict(num_frames=1, size=32)
    config = tiny_config(clips, training__max_steps=1, data__train__dataset=size, data__val__dataset=size,
                         objective__losses__perceptual=dict(loss=dict(type="LPIPS", net="alex"), weight=0.1))
    trainer = train(config, tmp_path)
    assert train_lines(tmp_path)[0]["perceptual"] > 0
    checkpoint = tmp_path / "checkpoints" / "step_1"
    assert load_file(checkpoint / "objective.safetensors") == {}
    assert load_file(checkpoint / "tokenizer.safetensors").keys() == trainer.tokenizer.network.state_dict().keys()
    assert list(trainer.objective.parameters()) == []


def test_unreadable_files_are_skipped_counted_and_listed(tmp_path):
    folder = write_clips(tmp_path / "clips", count=2)
    (folder / "torn.mp4").write_bytes(b"no video")
    trainer = train(tiny_config(folder, training__max_steps=3), tmp_path / "run")
    torn = str(folder / "torn.mp4")
    assert list(trainer.train_loader.unreadable) == [torn] and trainer.train_loader.unreadable_files.num_unreadable >= 1
    listed = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert {line.split("\t")[0] for line in listed} == {torn}


def test_clips_that_do_not_fit_the_stride_train_with_one_warning(clips, tmp_path, caplog):
    size = dict(size=(17, 15), num_frames=4)
    config = tiny_config(clips, training__max_steps=2, data__train__dataset=size, data__val__dataset=size)
    with caplog.at_level("WARNING"):
        train(config, tmp_path)
    warning, = [record.getMessage() for record in caplog.records if "do not fit the encoder" in record.getMessage()]
    # 4 frames are 1 + 3, padded to 1 + 4; 17 and 15 to the next even number
    assert "(4, 17, 15)" in warning and "(5, 18, 16)" in warning


def test_a_budget_of_flops_trains_as_its_number_of_steps_and_a_larger_one_continues(clips, tmp_path):
    def config(**training) -> dict:
        return tiny_config(clips, gan=True, training__warmup_steps=2, training__checkpoints=dict(every=2, keep=None),
                           **{f"training__{name}": value for name, value in training.items()})

    def budget(steps: float) -> dict:
        return dict(max_steps=None, max_flops=steps * TrainingFlops(
            build_run(Config(config()), num_processes=1), num_processes=1).total(1))

    def saved(name: str, step: int) -> dict:
        return load_file(tmp_path / name / "checkpoints" / f"step_{step}" / "tokenizer.safetensors")

    train(config(max_steps=2), tmp_path / "steps")
    trainer = train(config(**budget(2.9)), tmp_path / "flops")
    assert trainer.step == json.loads((tmp_path / "flops" / "run.json").read_text())["max_steps"] == 2
    assert_equal(saved("steps", 2), saved("flops", 2))
    train(config(max_steps=5), tmp_path / "steps", resume=True)
    train(config(**budget(5.5)), tmp_path / "flops", resume=True)
    assert_equal(saved("steps", 5), saved("flops", 5))
    with pytest.raises(ConfigError, match=r"max_steps=1, by training.max_steps or max_flops, .* set a larger number"):
        build(config(**budget(1.5)), tmp_path / "flops", resume=True)

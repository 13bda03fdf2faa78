"""A run that was killed and resumed equals the undisturbed run bit for bit."""

from __future__ import annotations

import copy
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from data.tars import write_shard
from engine.runs import assert_same_run, finish, kill, kill_at_random, run_to_end, start, train_command, wait_for
from training.tiny import IMAGE_DISCRIMINATOR, tiny_config, write_clips, write_config, write_images

from toolkit.training.checkpoint import checkpoints_in

pytestmark = pytest.mark.engine
STEPS = 24
# its codebook is a running average, started by k-means, with unused codes drawn anew
VQ = dict(_delete_=True, type="VQ", codebook_size=16, dim=4, update="ema", decay=0.8, kmeans_iters=2, revive_below=0.5)


def mixture(folder: Path, *, num_workers: int, in_tars: str) -> dict[str, Any]:
    """Images and clips, one of them in tars; three of a kind, so epochs end within steps. A discriminator for each."""
    clips, images = write_clips(folder / "clips"), write_images(folder / "images")
    for kind in (clips, images):
        for file in kind.iterdir():
            write_shard(folder / f"{kind.name}-{file.stem}.tar", {file.stem: {file.suffix[1:]: file.read_bytes()}})
    config = tiny_config(clips, gan=True, tokenizer__quantizer=VQ, training__max_steps=STEPS,
                         training__gradient_accumulation_steps=2, training__warmup_steps=3, training__log_every=5,
                         training__validate_every=7, training__checkpoints=dict(every=2, keep=3))
    moving = dict(type="VideoClips", path=str(clips), num_frames=5, size=16)
    still = dict(type="Images", path=str(images), size=16)
    if in_tars == "clips":
        moving |= dict(type="VideoShards", path=str(folder / "clips-{0..2}.tar"))
    else:
        still |= dict(type="ImageShards", path=str(folder / "images-{0..2}.tar"))
    config["data"] = {split: [dict(dataset=dataset | {"train": split == "train"}, batch_size=2, num_workers=num_workers)
                              for dataset in (moving, still)] for split in ("train", "val")}
    config["discriminator"] = dict(video=config["discriminator"], image=copy.deepcopy(IMAGE_DISCRIMINATOR))
    return config


@pytest.mark.parametrize(("num_processes", "num_workers", "in_tars", "kills"), [
    (1, 2, "clips", 3), (2, 0, "images", 2)], ids=["one process with workers", "two processes"])
def test_a_run_killed_at_random_moments_ends_as_the_undisturbed_one(
        tmp_path, num_processes, num_workers, in_tars, kills):
    config = write_config(tmp_path / "mixture.py", mixture(tmp_path, num_workers=num_workers, in_tars=in_tars))
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run_to_end(train_command(config, undisturbed, num_processes=num_processes))
    draw = random.Random()
    command = train_command(config, killed, "--resume", num_processes=num_processes)
    for number in range(kills):
        # a line at steps 5 and 10, then a random time: before, in and after writing a checkpoint
        kill_at_random(command, killed, after_step=5 * min(number + 1, 2), draw=draw)
        assert checkpoints_in(killed / "checkpoints")
    run_to_end(command)
    assert_same_run(undisturbed, killed, step=STEPS)
    assert len(checkpoints_in(killed / "checkpoints")) == 3
    assert not list((killed / "checkpoints").glob(".*"))  # nothing is left of what was half written


def test_no_checkpoint_is_half_written_after_a_kill(tmp_path):
    """Killed -9 while it writes, again and again: every checkpoint can be read."""
    config = tiny_config(write_clips(tmp_path / "clips"), gan=True, training__max_steps=10_000,
                         training__checkpoints=dict(every=1, keep=2))
    command = train_command(write_config(tmp_path / "tiny.py", config), tmp_path / "run", "--resume")
    draw, reached = random.Random(), 0
    for _ in range(2):
        process = start(command)
        wait_for(process, tmp_path / "run", step=reached + 3)
        folder = tmp_path / "run" / "checkpoints"
        while not list(folder.glob(".step_*.partial/*")):
            assert process.poll() is None
        kill(process)
        newest = checkpoints_in(folder)[-1]
        assert {path.name for path in newest.iterdir()} == {
            "tokenizer.safetensors", "ema.safetensors", "objective.safetensors", "discriminator_video.safetensors",
            "state.pt", "process_0.pt"}
        assert int(newest.name.removeprefix("step_")) > reached
        reached = int(newest.name.removeprefix("step_"))
        assert len(checkpoints_in(folder)) <= 3  # the one that is going has been renamed, or not yet
    process = start(command)
    wait_for(process, tmp_path / "run", step=reached + draw.randint(1, 3))
    os.killpg(process.pid, signal.SIGTERM)
    code, error = finish(process)
    assert code == 130 and f"resumed from {newest}" in error

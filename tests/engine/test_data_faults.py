"""Unusual and damaged files: right pixels, or an error that names the file, which training skips."""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from data import unusual_files as make
from data.numbered import encode, numbers_of
from data.tars import write_shard
from engine.runs import finish, start, train_command, wait_for
from mmengine.config import Config
from training import tiny

from toolkit.build import build_trainer
from toolkit.contracts import DataError
from toolkit.data import Images, ImageShards, Source, ValLoader, VideoClips, VideoShards
from toolkit.data.loading.sampling import seeded

pytestmark = pytest.mark.engine

# file -> its writer, and the grey levels that its pixels may be off
IMAGES = {
    "33x47.png": (make.image_33x47, 0), "grey.png": (make.grey, 0), "grey_16_bit.png": (make.grey_16_bit, 0),
    "rgb_16_bit.png": (make.rgb_16_bit, 1), "transparent.png": (make.transparent, 1), "palette.png": (make.palette, 0),
    "transparent_grey_16_bit.png": (make.transparent_grey_16_bit, 0), "cmyk.jpg": (make.cmyk, 3),
    "jpeg_called.png": (make.jpeg_by_another_name, 3),
    **{f"exif_orientation_{number}.jpg": (functools.partial(make.turned_by_exif, orientation=number), 3)
       for number in range(1, 9)}}
VIDEOS = {
    "33x47.mkv": (make.video_33x47, 0), "half_chroma_33x47.webm": (make.half_chroma_33x47, 8),
    "grey.mkv": (make.grey_video, 0), "variable_rate.mkv": (make.variable_rate, 12),
    **{f"transparent_{codec}.{ending}": (functools.partial(make.transparent_video, codec=codec, pix_fmt=pix_fmt), 0.5)
       for codec, ending, pix_fmt in (("qtrle", "mov", "argb"), ("ffv1", "mkv", "bgra"), ("png", "mov", "rgba"))},
    **{f"matrix_turn_{90 * turns}.mp4": (functools.partial(make.turned_by_matrix, quarter_turns=turns), 8)
       for turns in range(4)}}
# file -> its writer, and what the error says
FOREIGN, SILENT = "needed an image that Pillow can read, got no known format", "needed a video stream, got none"
STRIP = "needed frames at most 100 times as long as wide, got"
NO_IMAGES = {
    "truncated.png": (make.truncated, "needed an image that Pillow can read, got .*truncated"),
    "truncated.jpg": (make.truncated, "needed an image that Pillow can read, got .*truncated"),
    "empty.png": (make.empty, FOREIGN), "text_called.png": (make.text, FOREIGN), "strip.png": (make.strip, STRIP),
    "mp4_called.png": (make.video_by_another_name, FOREIGN)}
NO_VIDEOS = {
    "truncated.mp4": (make.truncated_video, SILENT),
    "torn.ts": (make.torn_stream, "needed whole frames, got damaged ones"), "strip.mkv": (make.strip_of_video, STRIP),
    "empty.mp4": (make.empty, "needed a video that FFmpeg can decode, got Invalid data"),
    "text_called.mp4": (make.text, "needed a video that FFmpeg can decode, got Invalid data"),
    "png_called.mp4": (make.image_by_another_name, r"needed 5 frames \(5 with stride 1\), got 1"),
    "audio_only.mp4": (make.audio_only, SILENT), "no_frames.mp4": (make.no_frames, SILENT),
    "no_frames.avi": (make.no_frames, r"needed 5 frames \(5 with stride 1\), got 0")}
OPTIONS = {"image": {}, "video": {"num_frames": 5}}
FILES, SHARDS = {"image": Images, "video": VideoClips}, {"image": ImageShards, "video": VideoShards}


def read(path: Path, modality: str, *, held: str, size: tuple[int, int] = (16, 16)) -> dict:
    """The sample of a file, or of a tar that has it."""
    options = dict(size=size, train=False, **OPTIONS[modality])
    if held == "file":
        return FILES[modality](path=str(path), **options)[0]
    shard = write_shard(path.parent / "shard.tar", {path.stem: {path.suffix[1:]: path.read_bytes()}})
    return next(iter(SHARDS[modality](path=str(shard), **options)))


def cases(*tables):
    return [pytest.param(modality, name, id=name)
            for modality, table in zip(("image", "video"), tables, strict=True) for name in table]


@pytest.mark.parametrize("held", ["file", "shard"])
@pytest.mark.parametrize(("modality", "name"), cases(IMAGES, VIDEOS))
def test_an_unusual_file_has_the_right_pixels(tmp_path, modality, name, held):
    writer, tolerance = (IMAGES if modality == "image" else VIDEOS)[name]
    expected = writer(tmp_path / name)
    sample = read(tmp_path / name, modality, held=held, size=expected.shape[1:3])
    shown = ((sample["pixels"] + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    assert shown.shape == expected.shape and sample["key"].endswith(f"/{name}")
    off = np.abs(shown - expected)
    if tolerance >= 3:  # the edges between flat colours are not exact in a lossy codec
        off = np.sort(off.ravel())[:int(off.size * 0.9)]
    assert off.max() <= tolerance + 0.01


@pytest.mark.parametrize("held", ["file", "shard"])
@pytest.mark.parametrize(("modality", "name"), cases(NO_IMAGES, NO_VIDEOS))
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, modality, name, held):
    writer, words = (NO_IMAGES if modality == "image" else NO_VIDEOS)[name]
    writer(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: {words}.*; ") as caught:
        read(tmp_path / name, modality, held=held)
    assert caught.value.path == str(tmp_path / name if held == "file" else tmp_path / "shard.tar" / name)


@pytest.mark.parametrize("kept", [0.5, 0.7, 0.9])
def test_a_truncated_video_whose_index_is_left_gives_whole_clips_or_an_error(tmp_path, kept):
    whole = encode(tmp_path / "whole.mp4", num_frames=100, b_frames=2, container_options={"movflags": "faststart"})
    content, data = whole.read_bytes(), whole.read_bytes().index(b"mdat")
    path = tmp_path / "truncated.mp4"
    path.write_bytes(content[:data + int(kept * (len(content) - data))])
    clips, seen = VideoClips(path=str(path), num_frames=5, size=64, flip=0.0), set()
    for seed in range(60):
        try:
            with seeded(seed):
                numbers = numbers_of(clips[0]["pixels"])
            assert numbers == list(range(numbers[0], numbers[0] + 5))
            seen.add("whole")
        except DataError as error:
            assert error.path == str(path)
            seen.add("error")
    assert seen == {"whole", "error"}


def write_all(folder: Path, *tables) -> list[Path]:
    folder.mkdir()
    paths = [folder / name for table in tables for name in table]
    for path, (writer, _) in zip(paths, itertools.chain(*(table.values() for table in tables)), strict=True):
        writer(path)
    return paths


@pytest.mark.parametrize(("modality", "good", "bad"), [("image", IMAGES, NO_IMAGES), ("video", VIDEOS, NO_VIDEOS)],
                         ids=["images", "videos"])
def test_a_shard_of_good_and_bad_files_gives_the_good_ones(tmp_path, modality, good, bad):
    samples = {f"{number:02d}": {path.suffix[1:]: path.read_bytes()}
               for number, path in enumerate(write_all(tmp_path / "files", good, bad))}
    keys = list(samples)
    for shard in range(3):
        write_shard(tmp_path / f"{shard}.tar", {key: samples[key] for key in keys[shard::3]})
    dataset = SHARDS[modality](path=str(tmp_path / "{0..2}.tar"), size=16, train=False, **OPTIONS[modality])
    loader = ValLoader([Source(dataset, batch_size=4, num_workers=2)], report=tmp_path / "unreadable.txt")
    read_keys = [key.rsplit("/", 1)[1][:2] for batch in loader for key in batch.keys]
    unreadable = [path.rsplit("/", 1)[1][:2] for path in loader.unreadable]
    assert sorted(read_keys) == keys[:len(good)] and sorted(unreadable) == keys[len(good):]
    assert len((tmp_path / "unreadable.txt").read_text().splitlines()) == len(bad)


def test_training_skips_every_kind_of_damaged_file_and_lists_each_once(tmp_path):
    bad = {str(path) for path in write_all(tmp_path / "bad_images", NO_IMAGES) + write_all(tmp_path / "bad", NO_VIDEOS)}
    for latin_1 in (tmp_path / "bad_images" / "caf\udce9.png", tmp_path / "bad" / "caf\udce9.mp4"):
        latin_1.touch()
        bad.add(str(latin_1))
    images = [tmp_path / "bad_images", *write_all(tmp_path / "images", IMAGES)]
    videos = [tmp_path / "bad", *write_all(tmp_path / "videos", VIDEOS)]
    splits = {split: [dict(dataset=dict(type=kind, path=[str(path) for path in paths], size=16, train=split == "train",
                                        **options), batch_size=4)
                      for kind, paths, options in (("Images", images, {}), ("VideoClips", videos, {"num_frames": 5}))]
              for split in ("train", "val")}
    config = tiny.tiny_config(tmp_path, training__max_steps=20, training__max_unreadable_share=0.8)
    trainer = build_trainer(Config({**config, "data": splits}), work_dir=tmp_path / "run")
    for gone in (images[1], videos[1]):  # after they were listed
        gone.unlink()
        bad.add(str(gone))
    assert trainer.run()
    position = trainer.train_loader.state_dict()
    assert all(seen >= len(source.dataset) for seen, source in zip(position["positions"], trainer.train_loader.sources,
                                                                    strict=True))
    assert set(trainer.train_loader.unreadable) == bad and position["num_unreadable"] >= len(bad)
    lines = (tmp_path / "run" / "unreadable.txt").read_text(errors="surrogateescape").splitlines()
    listed = [line.split("\t")[0] for line in lines]
    assert len(listed) == len(bad) and set(listed) == bad  # though validation met them too
    assert sum("No such file" in line for line in lines) == 2
    assert all(torch.isfinite(tensor).all() for tensor in trainer.tokenizer.network.state_dict().values())
    assert (tmp_path / "run" / "checkpoints" / "step_20").is_dir()


def test_a_lost_worker_ends_the_run_with_what_to_do(tmp_path):
    images = tiny.write_images(tmp_path / "images")
    config = tiny.tiny_config(tmp_path, training__max_steps=100_000)
    for split in ("train", "val"):
        config["data"][split] = dict(batch_size=2, dataset=dict(type="Images", path=str(images), size=16))
    config["data"]["train"]["num_workers"] = 1
    process = start(train_command(tiny.write_config(tmp_path / "config.py", config), tmp_path / "run"))
    wait_for(process, tmp_path / "run", step=3)
    worker, = (child for child in psutil.Process(process.pid).children() if "train.py" in " ".join(child.cmdline()))
    os.kill(worker.pid, signal.SIGKILL)  # as the system does that has no more memory
    code, error = finish(process)
    assert code == 1 and "Traceback" not in error
    assert re.search(r"error: a data worker was lost, got .+ want of memory; .*num_workers.* --resume", error)


def test_validation_that_loses_a_worker_ends_too(tmp_path):
    signal_before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # of a loader that is not ours, perhaps
    images, before = tiny.write_images(tmp_path / "images", count=12), set(psutil.Process().children())
    batches = iter(ValLoader([Source(Images(path=str(images), size=16, train=False), batch_size=1, num_workers=1)]))
    next(batches)
    worker, = (child for child in set(psutil.Process().children()) - before if "tracker" not in str(child.cmdline()))
    worker.kill()
    with pytest.raises(DataError, match=r"a data worker was lost, got .+ want of memory"):
        list(batches)
    signal.signal(signal.SIGCHLD, signal_before)

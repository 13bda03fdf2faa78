"""Protocols as data: stable hashes that every field is in, and samples prepared as they say."""

import dataclasses

import numpy as np
import pytest
import torch
from evaluation.running import FOLDER
from PIL import Image
from training.tiny import write_clips, write_images

from toolkit.contracts import DataError
from toolkit.data import Source, ValLoader
from toolkit.evaluation.preparation import block_numbers, build_dataset, file_of, files_of, frame_rate, prepare
from toolkit.evaluation.protocol import PSNR, RESIZES, Protocol, load_suite, suite_names
from toolkit.registry import METRICS

SUITES = FOLDER / "suites"
BASE = Protocol("somewhere", "val", 8, 32, (PSNR,), num_frames=5)
CHANGES = {"dataset": "elsewhere", "split": "train", "num_samples": 9, "size": 33, "metrics": (PSNR, PSNR),
           "num_frames": 6, "frame_stride": 2, "fps": 8.0, "resize": RESIZES[1], "crop": "random",
           "clip_choice": "random", "clips_per_video": 2, "values": "uint8", "deviations": ("one",)}


@pytest.mark.parametrize("name", suite_names(SUITES))
def test_every_suite_loads_and_its_metrics_exist(name):
    protocol = load_suite(name, SUITES).protocol
    types = {config["type"] for config in protocol.metrics}
    assert all(type_ in METRICS for type_ in types)
    assert "MSSSIM" not in types or protocol.size >= 161
    assert "VideoDistances" not in types or protocol.num_frames >= 10
    assert (SUITES / f"{name}.py").read_text().startswith('"""')


def test_hashes_are_those_of_earlier_versions_and_unlike_each_other():
    hashes = {name: load_suite(name, SUITES).protocol.hash for name in suite_names(SUITES)}
    assert BASE.hash == "fab3bddd6c10" and hashes["samples_video"] == "707edf5d57d6"
    assert hashes["ucf101_magvit"] == "59be6d19a472" and len(set(hashes.values())) == len(hashes)


def test_changing_any_field_changes_the_hash():
    assert CHANGES.keys() == {field.name for field in dataclasses.fields(Protocol)}
    hashes = {dataclasses.replace(BASE, **{name: value}).hash for name, value in CHANGES.items()}
    assert len(hashes | {BASE.hash}) == len(CHANGES) + 1


@pytest.mark.parametrize(("name", "value"), [("resize", "nearest"), ("crop", "left"), ("clip_choice", "first"),
                                             ("values", "uint16")])
def test_an_unknown_choice_is_refused_with_those_there_are(name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got '{value}'"):
        dataclasses.replace(BASE, **{name: value})


def test_a_wrong_suite_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean samples_video"):
        load_suite("sample_video", SUITES)
    (tmp_path / "mine.py").write_text("SUITES = 3")
    with pytest.raises(ValueError, match=r"mine\.py needs SUITE"):
        load_suite(str(tmp_path / "mine.py"), SUITES)


@pytest.mark.parametrize(("resize", "filter_"), zip(
    RESIZES, (Image.Resampling.BICUBIC, None, Image.Resampling.LANCZOS, None, None), strict=True))
def test_every_resize_gives_the_protocols_size_and_antialiased_short_edges_agree_with_pillow(resize, filter_):
    frames = torch.randint(0, 256, (1, 48, 96, 3), dtype=torch.uint8)
    prepared = prepare(frames, dataclasses.replace(BASE, resize=resize))
    assert prepared.shape == (3, 1, 32, 32) and -1 <= prepared.min() < prepared.max() <= 1
    if filter_ is not None:
        expected = np.asarray(Image.fromarray(frames[0].numpy()).resize((64, 32), filter_))[:, 16:48]
        difference = (prepared[:, 0].permute(1, 2, 0) + 1) * 127.5 - torch.from_numpy(expected.astype(np.float32))
        assert difference.abs().max() <= 1.01


def test_squashing_keeps_the_borders_that_a_crop_loses():
    frames = torch.zeros(1, 48, 96, 3, dtype=torch.uint8)
    frames[:, :, :8] = 255
    squashed, cropped = (prepare(frames, dataclasses.replace(BASE, resize=resize))
                         for resize in ("squash, bicubic", "short edge, bicubic"))
    assert squashed.max() == 1 and cropped.max() == -1


def keys(protocol: Protocol, path, **options) -> list[str]:
    loader = ValLoader([Source(build_dataset(protocol, path, **options), batch_size=2)])
    return [key for batch in loader for key in batch.keys]


def test_samples_are_spread_and_a_limit_takes_some_of_all(tmp_path):
    clips = write_clips(tmp_path, count=4)
    protocol = dataclasses.replace(BASE, clips_per_video=2)
    assert len(keys(protocol, clips)) == 8
    assert keys(protocol, clips, limit=2) == [f"{clips / '0.mp4'}#0", f"{clips / '2.mp4'}#0"]
    with pytest.raises(DataError, match="needs 8 samples, got 4 at"):
        keys(BASE, clips)
    with pytest.raises(DataError, match="needs 9 samples, got 8 at"):
        keys(dataclasses.replace(protocol, num_samples=9), clips, limit=9)


def test_random_clips_repeat_files_up_to_the_number_and_are_the_same_every_time(tmp_path):
    clips = write_clips(tmp_path, count=3, num_frames=12)
    protocol = dataclasses.replace(BASE, num_samples=7, clip_choice="random", crop="random")
    dataset = build_dataset(protocol, clips)
    first, again = (next(iter(ValLoader([Source(dataset, batch_size=7)]))).pixels for _ in range(2))
    assert len(dataset) == 7 and torch.equal(first, again)
    files, found = set(files_of(dataset)), keys(protocol, clips)
    assert len(set(found)) == 7
    assert {file_of(key, files) for key in found} == files == {str(f) for f in clips.iterdir()}


def test_blocks_are_whole_files_numbered_over_the_sorted_list():
    many = [f"{number:02}.mp4" for number in range(50)]
    assert block_numbers(many[19::-1]) == {name: number for number, name in enumerate(many[:20])}
    assert block_numbers(many) == {name: number * 20 // 50 for number, name in enumerate(many)}


def test_a_key_belongs_to_its_file_even_if_names_have_hashes():
    files = {"a#1.mp4", "a"}
    assert file_of("a#1.mp4#3", files) == "a#1.mp4"
    assert file_of("a#1#2", files) == "a"


def test_images_are_prepared_too(tmp_path):
    protocol = Protocol("pictures", "all", 3, 16, (PSNR,))
    dataset = build_dataset(protocol, write_images(tmp_path, count=3))
    assert dataset[0]["pixels"].shape == (3, 1, 16, 16) and frame_rate(protocol, ["x"]) is None

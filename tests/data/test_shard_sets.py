"""Images and clips from tars, compared with webdataset."""

from __future__ import annotations

import gzip
import json
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import encode
from tars import noise, write_image_shards, write_shard

from toolkit.contracts import DataError
from toolkit.data import ImageShards, VideoClips, VideoShards
from toolkit.data.reading.transforms import to_frames
from toolkit.data.seeding import seeded
from toolkit.registry import DATASETS
from toolkit.testing import check_dataset

SIZES = [4, 1, 7, 3, 6]
SAMPLES = [f"{number:03d}" for number in range(sum(SIZES))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five tars of 21 samples."""
    folder = tmp_path_factory.mktemp("shards")
    tars = write_image_shards(folder, sizes=SIZES)
    (folder / "list.txt").write_text("".join(f"{path.name}\n" for path in tars))
    return folder


def images_of(path, **options):
    return ImageShards(path=str(path), size=(12, 16), **options)


def stem(sample):
    return sample["key"].rsplit("/", 1)[1].split(".")[0]


def one_pass(dataset, *, seed=0, index=0, count=1):
    """Keys of a reader's share of a pass; an unreadable one is its error."""
    with seeded(seed):
        iterator = iter(dataset.shard(index, count))
    keys = []
    while True:
        try:
            keys.append(stem(next(iterator)))
        except DataError as error:
            keys.append(str(error))
        except StopIteration:
            return keys


def test_images_are_those_that_webdataset_sees(folder):
    theirs = list(webdataset.WebDataset(f"{folder}/shard-{{000..004}}.tar", shardshuffle=False).decode("rgb8"))
    ours = list(images_of(folder, train=False))
    assert [sample["__key__"] for sample in theirs] == [stem(sample) for sample in ours] == SAMPLES
    for their, our in zip(theirs, ours, strict=True):
        assert our["key"] == f"{their['__url__']}/{their['__key__']}.png" and our["pixels"].shape == (3, 1, 12, 16)
        assert torch.equal(to_frames(our["pixels"])[0], torch.from_numpy(their["png"].copy()))


def test_videos_are_those_that_webdataset_sees_with_the_clips_of_their_files(tmp_path):
    files = [encode(tmp_path / f"{number}.mp4", num_frames=10 + number, b_frames=2) for number in range(3)]
    write_shard(tmp_path / "a.tar", {file.stem: {"mp4": file.read_bytes(), "txt": "words"} for file in files})
    theirs = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["mp4"] for sample in theirs] == [file.read_bytes() for file in files]
    for options in ({}, {"frame_stride": 2}, {"fps": 12.5}):
        options = dict(num_frames=4, size=48, short_edge=56, train=False, **options)
        clips = VideoClips(path=[str(file) for file in files], **options)
        for number, sample in enumerate(VideoShards(path=str(tmp_path / "a.tar"), **options)):
            assert sample["key"] == f"{tmp_path}/a.tar/{number}.mp4"
            assert torch.equal(sample["pixels"], clips[number]["pixels"])


@pytest.mark.parametrize("pattern", ["shard-{000..004}.tar", "", "*.tar", "list.txt"])
def test_tars_are_named_by_braces_folder_glob_or_list(folder, pattern):
    dataset = DATASETS.build({"type": "ImageShards", "path": str(folder / pattern), "size": 12, "train": False})
    assert dataset.modality == "image" and one_pass(dataset) == SAMPLES


def test_augmented_shards_meet_the_contract(folder, tmp_path):
    content = encode(tmp_path / "a.mp4", num_frames=12).read_bytes()
    write_shard(tmp_path / "a.tar", {str(number): {"mp4": content} for number in range(3)})
    images = images_of(folder, short_edge=(16, 20))
    videos = VideoShards(path=str(tmp_path / "a.tar"), num_frames=5, size=(24, 32), channel_shuffle=0.5)
    assert (images.sample_size, videos.sample_size) == ((1, 12, 16), (5, 24, 32))
    check_dataset(images, num_samples=8)
    check_dataset(videos)


def test_every_pass_shuffles_shards_and_samples(folder):
    passes = [one_pass(images_of(folder), seed=seed) for seed in range(40)]
    assert all(sorted(keys) == SAMPLES for keys in passes) and len({tuple(keys) for keys in passes}) == 40
    shard_of = dict(zip(SAMPLES, np.repeat(range(5), SIZES).tolist(), strict=True))
    orders = [list(dict.fromkeys(shard_of[key] for key in keys)) for keys in passes]
    assert {order[0] for order in orders} == set(range(5))
    for keys, order in zip(passes, orders, strict=True):  # each shard in one go
        assert [shard_of[key] for key in keys] == [shard for shard in order for _ in range(SIZES[shard])]


@given(readers=st.integers(1, 30), shards=st.integers(1, 5), train=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_readers_share_a_pass_evenly_whatever_their_number(folder, readers, shards, train, seed):
    dataset = ImageShards(path=[folder / f"shard-{shard:03d}.tar" for shard in range(shards)], train=train)
    dataset.frames = dataset.framing = lambda content, **_: content  # many passes, in which nothing is decoded
    shares = [one_pass(dataset, seed=seed, index=index, count=readers) for index in range(readers)]
    joined = [key for share in shares for key in share]
    # together they keep the order of one reader alone, so all draw the same order
    assert sorted(joined) == SAMPLES[:sum(SIZES[:shards])] and joined == one_pass(dataset, seed=seed)


def test_equal_shards_give_readers_equal_shares_of_the_fewest_shards(tmp_path):
    write_image_shards(tmp_path, sizes=[6] * 4)
    for readers, samples, opened in ((2, 12, 2), (8, 3, 1), (3, 8, 2), (12, 2, 1)):
        for index in range(readers):
            keys = [sample["key"] for sample in images_of(tmp_path).shard(index, readers)]
            assert len(keys) == samples and len({key.rsplit("/", 1)[0] for key in keys}) <= opened


def test_random_draws_of_a_sample_do_not_depend_on_its_reader(folder):
    def pixels(readers, *, seed=3):
        pixels_of = {}
        for index in range(readers):
            dataset = ImageShards(path=str(folder), size=8, channel_shuffle=0.5).shard(index, readers)
            with seeded(seed):
                pixels_of |= {sample["key"]: sample["pixels"] for sample in dataset}
        return pixels_of
    alone, shared, other = pixels(1), pixels(4), pixels(1, seed=4)
    assert alone.keys() == shared.keys() and all(torch.equal(alone[key], shared[key]) for key in alone)
    assert sum(torch.equal(alone[key], other[key]) for key in alone) < len(alone) / 2


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_position_resumes_anywhere_without_the_shards_before_it(folder, train, count):
    for index in range(count):
        dataset = images_of(folder, train=train).shard(index, count)
        with seeded(1):
            whole = iter(dataset)
        samples, states = [], [whole.state_dict()]
        for sample in whole:
            samples.append(sample)
            states.append(json.loads(json.dumps(whole.state_dict())))
        for done, state in enumerate(states):
            with seeded(1):
                resumed = iter(dataset)
            for shard in resumed.order[:state["shard"]]:
                resumed.dataset.files[shard] = folder / "gone.tar"
            resumed.load_state_dict(state)
            for one, other in zip(resumed, samples[done:], strict=True):
                assert one["key"] == other["key"] and torch.equal(one["pixels"], other["pixels"])
            dataset.files = images_of(folder).files


def test_a_position_of_other_shards_or_readers_is_refused(folder):
    dataset = images_of(folder)
    state = iter(dataset).state_dict()
    with pytest.raises(ValueError, match=r"in 5 shards with 1 readers .* got 5 and 2"):
        iter(dataset.shard(1, 2)).load_state_dict(state)


@pytest.mark.parametrize("tear", ["content", "header", "end"])
def test_a_torn_tar_gives_the_samples_before_the_tear_and_then_its_name(tmp_path, tear):
    path = write_shard(tmp_path / "a.tar", {str(number): {"png": noise(number)} for number in range(4)})
    write_shard(tmp_path / "b.tar", {"9": {"png": noise(9)}})
    with tarfile.open(path) as tar:
        last = tar.getmembers()[3]
    cut = {"content": last.offset_data + 99, "header": last.offset + 99, "end": last.offset}[tear]
    path.write_bytes(path.read_bytes()[:cut])
    *whole, error, behind = one_pass(images_of(tmp_path, train=False))
    assert (whole, behind) == (["0", "1", "2"], "9") and error.startswith(f"{path}: needed an uncompressed tar, got")
    shares = [one_pass(images_of(tmp_path), seed=4, index=index, count=3) for index in range(3)]
    assert sorted(key for share in shares for key in share if len(key) == 1) == ["0", "1", "2", "9"]


@pytest.mark.parametrize(("content", "words"), [
    (None, "needed an uncompressed tar, got No such file"), (b"", "needed an uncompressed tar"),
    (b"no tar" * 999, "needed an uncompressed tar"), ("gzip", "needed an uncompressed tar"),
    ("texts", r"needed members that end in \.png.*got none")], ids=["deleted", "empty", "foreign", "gzip", "texts"])
def test_a_shard_without_samples_is_named_and_the_next_is_read(tmp_path, content, words):
    path = write_shard(tmp_path / "a.tar", {"0": {"txt": "words"}})
    write_shard(tmp_path / "b.tar", {"1": {"png": noise(1)}})
    dataset = images_of(tmp_path, train=False)
    if content is None:
        path.unlink()
    elif content != "texts":
        path.write_bytes(gzip.compress(path.read_bytes()) if content == "gzip" else content)
    iterator = iter(dataset)
    with pytest.raises(DataError, match=words) as caught:
        next(iterator)
    assert caught.value.path == str(path) and stem(next(iterator)) == "1"


def test_a_shard_that_is_deleted_or_truncated_while_read_is_named(tmp_path):
    path = write_shard(tmp_path / "a.tar", {str(number): {"png": noise(number)} for number in range(3)})
    iterator = iter(images_of(path, train=False))
    next(iterator)
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(DataError, match=r"a\.tar/1\.png: needed \d+ bytes, got 0"):
        next(iterator)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar: needed the tar as it was, got No such file"):
        next(iterator)


def test_of_several_images_of_a_key_the_plainest_name_is_the_sample(tmp_path):
    members = {"depth.png": noise(1), "png": noise(2), "webp": b"later"}  # in the order of their names
    path = write_shard(tmp_path / "a.tar", {"x.y/0": members, "x.y/1": {"left.png": noise(3)}, ".hidden": members})
    theirs = [sample["__key__"] for sample in webdataset.WebDataset(str(path), shardshuffle=False)]
    keys = [sample["key"] for sample in images_of(path, train=False)]
    assert keys == [f"{path}/x.y/0.png", f"{path}/x.y/1.left.png"] and theirs[:2] == ["x.y/0", "x.y/1"]

"""The loaders on real files: images of noise, some of them torn."""

import logging
import os
import subprocess
import sys
from itertools import chain, islice

import pytest
import torch
from numbered import encode
from PIL import Image
from tars import noise

from toolkit.contracts import DataError
from toolkit.data import Images, Source, TrainLoader, ValLoader, VideoClips
from toolkit.data.loading.unreadable import UnreadableFiles


def images_of(folder, *, count=12, torn=(), **options):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(noise(number, height=18, width=20)).save(folder / f"{number:03d}.png")
    for number in torn:
        (folder / f"{number:03d}.png").write_bytes(b"torn")
    return Images(path=str(folder), size=16, **options)


def loader_of(images, *, batch_size=4, num_workers=0, seed=0, **options):
    return TrainLoader([Source(images, batch_size=batch_size, num_workers=num_workers)], seed=seed, **options)


def names_of(batches):
    return [key.rsplit("/", 1)[-1] for batch in batches for key in batch.keys]


@pytest.fixture
def sources(tmp_path):
    """Images, two of them torn, and clips."""
    clips = [encode(tmp_path / f"{name}.mp4", num_frames=12) for name in "abc"]

    def build(*, num_workers):
        return [Source(images_of(tmp_path / "images", torn=(2, 3)), batch_size=3, weight=2.0, num_workers=num_workers),
                Source(VideoClips(path=[str(clip) for clip in clips], num_frames=3, size=32, short_edge=48),
                       batch_size=2, weight=1.0, num_workers=num_workers)]
    return build


def equal(one, other):
    return (one.keys == other.keys and one.modality == other.modality
            and torch.equal(one.pixels, other.pixels) and one.unreadable == other.unreadable)


def test_batches_do_not_depend_on_the_number_of_workers_nor_change_the_global_generator(sources):
    generator = torch.get_rng_state()
    inside, outside = (TrainLoader(sources(num_workers=count), seed=1) for count in (0, 2))
    batches = [(next(inside), next(outside)) for _ in range(8)]
    assert all(equal(one, other) for one, other in batches)
    assert {one.modality for one, _ in batches} == {"image", "video"}
    assert {tuple(one.pixels.shape) for one, _ in batches} == {(3, 3, 1, 16, 16), (2, 3, 3, 32, 32)}
    assert inside.state_dict() == outside.state_dict() and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (2, 0)])
def test_a_resumed_loader_continues_with_the_next_batch(sources, before, after):
    whole = TrainLoader(sources(num_workers=0), seed=4)
    expected = [next(whole) for _ in range(11)]
    first = TrainLoader(sources(num_workers=before), seed=4)
    assert all(equal(next(first), batch) for batch in expected[:5])
    state = first.state_dict()
    next(first)  # what comes after saving changes nothing
    second = TrainLoader(sources(num_workers=after), seed=4)
    second.load_state_dict(state)
    assert all(equal(next(second), batch) for batch in expected[5:])
    assert len(second.unreadable) == 2 and second.state_dict() == whole.state_dict()


def test_an_epoch_has_every_sample_once_in_another_order(tmp_path):
    images = images_of(tmp_path / "i")
    loader = loader_of(images)
    epochs = [names_of(islice(loader, 3)) for _ in range(3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and names_of(islice(loader_of(images, seed=1), 3)) != epochs[0]


def test_processes_share_an_epoch_and_equal_one_process_of_the_joined_batch(tmp_path):
    images = images_of(tmp_path / "i")
    alone = loader_of(images)
    ranks = [loader_of(images, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for joined, one, two in islice(zip(alone, *ranks, strict=True), 6):
        assert set(one.keys).isdisjoint(two.keys)
        assert torch.equal(torch.cat([one.pixels, two.pixels]), joined.pixels)
    resumed = loader_of(images)  # with another number of processes
    resumed.load_state_dict(ranks[1].state_dict())
    assert equal(next(resumed), next(alone))


def test_sources_are_drawn_by_weight_and_the_same_on_all_ranks(tmp_path):
    images, other = images_of(tmp_path / "i", count=2), images_of(tmp_path / "o", count=2)
    sources = [Source(images, batch_size=1, weight=3.0), Source(other, batch_size=1),
               Source(other, batch_size=1, weight=0.0)]
    loaders = [TrainLoader(sources, seed=7, rank=rank, world_size=2) for rank in range(2)]
    for loader in loaders:
        names_of(islice(loader, 400))
    first, second = (loader.state_dict()["positions"] for loader in loaders)
    assert first == second and first[2] == 0
    assert 0.68 < first[0] / sum(first) < 0.82  # 3/4 and three standard errors


def test_the_micro_batches_of_a_step_come_from_one_source(tmp_path):
    sources = [Source(images_of(tmp_path / name), batch_size=1) for name in "io"]
    loader = TrainLoader(sources, seed=0, batches_per_choice=4)
    folders = [[next(loader).keys[0].split("/")[-2] for _ in range(4)] for _ in range(20)]
    assert all(len(set(step)) == 1 for step in folders) and len({step[0] for step in folders}) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_replaced_counted_and_logged_once(tmp_path, caplog, workers):
    images = images_of(tmp_path / "i", count=40, torn=(5,))
    report = tmp_path / "unreadable.txt"
    loader = loader_of(images, batch_size=8, num_workers=workers, report=report)
    with caplog.at_level(logging.WARNING):
        batches = [next(loader) for _ in range(10)]
    assert all(batch.pixels.shape[0] == 8 for batch in batches)
    assert list(loader.unreadable) == [str(tmp_path / "i" / "005.png")]
    assert sum(len(batch.unreadable) for batch in batches) >= 2  # twice in two epochs
    assert caplog.text.count("skipped, unreadable") == 1
    line, = report.read_text().splitlines()
    assert line.startswith(f"{tmp_path / 'i' / '005.png'}\t")


def test_too_large_a_share_of_unreadable_files_ends_with_their_names(tmp_path):
    images = images_of(tmp_path / "i", count=20, torn=range(0, 20, 4))
    loader = loader_of(images)
    with pytest.raises(DataError, match=r"(?s)samples are unreadable, more than 5\.0% are allowed.*000\.png"):
        names_of(islice(loader, 50))
    assert len(loader.unreadable) >= 3
    assert len(names_of(islice(loader_of(images, max_unreadable_share=0.5), 50))) == 200
    with pytest.raises(DataError, match=r"more than 0\.0% are allowed"):
        next(loader_of(images, batch_size=20, max_unreadable_share=0.0))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_ends_at_the_first_batch(tmp_path, workers):
    images = images_of(tmp_path / "i", count=3, torn=range(3))
    with pytest.raises(DataError, match=r"no readable replacement.*\n.*png: needed an image"):
        next(loader_of(images, num_workers=workers, max_unreadable_share=1.0))


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (3, 0), (3, 2)])
def test_validation_reads_every_sample_once_over_all_ranks_and_the_same_in_every_pass(tmp_path, world_size, workers):
    images = images_of(tmp_path / "i", count=11, torn=(4,), short_edge=(16, 18))  # random crops and flips
    source = Source(images, batch_size=2, num_workers=workers)
    loaders = [ValLoader([source], rank=rank, world_size=world_size) for rank in range(world_size)]
    shares, again = ([list(loader) for loader in loaders] for _ in range(2))
    names = [names_of(share) for share in shares]
    assert sorted(chain(*names)) == [f"{number:03d}.png" for number in range(11) if number != 4]
    assert all(share == sorted(share) for share in names)
    assert all(equal(*pair) for pair in zip(chain(*shares), chain(*again), strict=True))
    assert sum(len(loader.unreadable) for loader in loaders) == 1


def test_validation_with_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(DataError, match="2 of 2 samples are unreadable, all of source 0"):
        list(ValLoader([Source(images_of(tmp_path / "i", count=2, torn=(0, 1)), batch_size=2)]))


def test_values_out_of_range_are_refused(tmp_path):
    source = Source(images_of(tmp_path / "i", count=2), batch_size=1)
    with pytest.raises(ValueError, match="positive weight"):
        TrainLoader([Source(source.dataset, batch_size=1, weight=0.0)], seed=0)
    with pytest.raises(ValueError, match="rank in"):
        TrainLoader([source], seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size >= 1"):
        Source(source.dataset, batch_size=0)
    with pytest.raises(ValueError, match="of 1 sources, this loader has 2"):
        TrainLoader([source, source], seed=0).load_state_dict(TrainLoader([source], seed=0).state_dict())


@pytest.mark.parametrize("count", [11, 12, 13])
def test_a_changed_number_of_samples_is_logged(tmp_path, caplog, count):
    first, second = loader_of(images_of(tmp_path / "i")), loader_of(images_of(tmp_path / "j", count=count))
    next(first)
    with caplog.at_level(logging.WARNING):
        second.load_state_dict(first.state_dict())
    message = f"source 0, Images, has {count} samples now and had 12 when the position was saved: they come in another"
    assert (message in caplog.text) == (count != 12) and len(caplog.records) == (count != 12)
    assert len(names_of(islice(second, 5))) == 20


NAMES = {b"plain.png": b"plain.png", "bär.png".encode(): "bär.png".encode(), b"caf\xe9.png": b"caf\xe9.png",
         b"new\nline.png": rb"new\nline.png", b"tab\tstop.png": rb"tab\tstop.png",
         b"re\rturn.png": rb"re\rturn.png", rb"back\nslash.png": rb"back\\nslash.png"}


def test_the_report_of_unreadable_files_has_one_line_per_file_whatever_its_name(tmp_path):
    paths = [os.fsdecode(name) for name in NAMES]
    for _ in range(2):  # the second process finds them listed
        unreadable_files = UnreadableFiles(max_share=1.0, report=tmp_path / "unreadable.txt")
        unreadable_files.add([(path, f"{path}: torn\nfor good") for path in paths], num_readable=0)
        assert list(unreadable_files.reasons) == paths
    lines = (tmp_path / "unreadable.txt").read_bytes().splitlines()
    assert lines == [b"%s\t%s: torn\\nfor good" % (name, name) for name in NAMES.values()]


@pytest.mark.skipif(sys.platform != "linux", reason="loader workers are forked on Linux only")
def test_a_worker_does_not_wait_for_the_threads_of_a_codec_that_its_parent_left(tmp_path):
    images_of(tmp_path / "images")
    program = f"""
import gc
import numpy as np
from av import VideoFrame
from av.video.reformatter import VideoReformatter
from toolkit.data import Images, Source, ValLoader

class Collecting(Images):
    def __getitem__(self, number):
        gc.collect()
        return super().__getitem__(number)

gc.disable()
converter = VideoReformatter()
converter.reformat(VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8)), format="yuv420p", threads=2)
cycle = [converter]
cycle.append(cycle)
del cycle, converter
images = Collecting(path={str(tmp_path / "images")!r}, size=8, train=False)
assert len(list(ValLoader([Source(images, batch_size=4, num_workers=1)]))) > 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

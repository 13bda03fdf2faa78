"""The loaders on real files: images of one grey each, some of them torn."""

import itertools
import logging

import pytest
import torch
from numbered import encode
from PIL import Image

from toolkit.contracts import DataError, Dataset
from toolkit.data import Images, Source, TrainLoader, ValLoader, VideoClips


def images_of(folder, *, count=12, torn=(), **options):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number:03d}.png"
        if number in torn:
            path.write_bytes(b"torn")
        else:
            Image.new("RGB", (20, 18), (number, number, number)).save(path)
    return Images(path=str(folder), size=16, **options)


def keys_of(loader, count):
    return [[key.rsplit("/", 1)[-1] for key in next(loader).keys] for _ in range(count)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.fixture
def sources(tmp_path):
    """Images and clips whose pixels depend on the random draws."""
    clips = [encode(tmp_path / f"{name}.mp4", num_frames=12) for name in "abc"]

    def build(*, num_workers):
        return [Source(images_of(tmp_path / "images"), batch_size=3, weight=2.0, num_workers=num_workers),
                Source(VideoClips(path=[str(clip) for clip in clips], num_frames=3, size=32, short_edge=48),
                       batch_size=2, weight=1.0, num_workers=num_workers)]
    return build


def equal(one, other):
    return (one.keys == other.keys and one.modality == other.modality
            and torch.equal(one.pixels, other.pixels) and one.unreadable == other.unreadable)


def test_batches_do_not_depend_on_the_number_of_workers(sources):
    inside, outside = (TrainLoader(sources(num_workers=count), seed=1) for count in (0, 2))
    batches = [(next(inside), next(outside)) for _ in range(8)]
    assert all(equal(one, other) for one, other in batches)
    assert {one.modality for one, _ in batches} == {"image", "video"}
    assert {tuple(one.pixels.shape) for one, _ in batches} == {(3, 3, 1, 16, 16), (2, 3, 3, 32, 32)}


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


def test_loading_does_not_change_the_global_generator(sources):
    torch.manual_seed(0)
    expected = torch.rand(3)
    for workers in (0, 1):
        torch.manual_seed(0)
        loader = TrainLoader(sources(num_workers=workers), seed=4)
        next(loader)
        loader.state_dict()
        assert torch.equal(torch.rand(3), expected)


def test_an_epoch_has_every_sample_once_in_another_order(tmp_path):
    loader = TrainLoader([Source(images_of(tmp_path / "i"), batch_size=4)], seed=0)
    epochs = [flat(keys_of(loader, 3)) for _ in range(3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    other = TrainLoader([Source(images_of(tmp_path / "i"), batch_size=4)], seed=1)
    assert flat(keys_of(other, 3)) != epochs[0]


def test_processes_share_an_epoch_and_equal_one_process_of_the_joined_batch(tmp_path):
    images = images_of(tmp_path / "i")
    alone = TrainLoader([Source(images, batch_size=4)], seed=0)
    ranks = [TrainLoader([Source(images, batch_size=2)], seed=0, rank=rank, world_size=2)
             for rank in range(2)]
    for _ in range(6):
        joined = next(alone)
        one, two = (next(loader) for loader in ranks)
        assert set(one.keys).isdisjoint(two.keys)
        assert torch.equal(torch.cat([one.pixels, two.pixels]), joined.pixels)
    assert ranks[0].state_dict()["positions"] == alone.state_dict()["positions"]


def test_a_position_may_be_resumed_by_another_number_of_processes(tmp_path):
    images = images_of(tmp_path / "i")
    two = TrainLoader([Source(images, batch_size=2)], seed=0, rank=1, world_size=2)
    keys_of(two, 2)
    one = TrainLoader([Source(images, batch_size=4)], seed=0)
    seen = flat(keys_of(one, 2))
    one.load_state_dict(two.state_dict())
    assert set(seen).isdisjoint(flat(keys_of(one, 1)))


def test_sources_are_drawn_by_weight_and_the_same_on_all_ranks(tmp_path):
    images = images_of(tmp_path / "i", count=2)
    other = images_of(tmp_path / "o", count=2)
    loaders = [TrainLoader([Source(images, batch_size=1, weight=3.0), Source(other, batch_size=1),
                            Source(other, batch_size=1, weight=0.0)], seed=7, rank=rank, world_size=2)
               for rank in range(2)]
    for _ in range(400):
        for loader in loaders:
            next(loader)
    first, second = (loader.state_dict()["positions"] for loader in loaders)
    assert first == second and first[2] == 0
    assert 0.68 < first[0] / sum(first) < 0.82  # 3/4 and three standard errors


def test_the_micro_batches_of_a_step_come_from_one_source(tmp_path):
    images, other = images_of(tmp_path / "i"), images_of(tmp_path / "o")
    loader = TrainLoader([Source(images, batch_size=1), Source(other, batch_size=1)], seed=0,
                         draws_per_choice=4)
    folders = [[next(loader).keys[0].split("/")[-2] for _ in range(4)] for _ in range(20)]
    assert all(len(set(step)) == 1 for step in folders) and len({step[0] for step in folders}) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_replaced_counted_and_logged_once(tmp_path, caplog, workers):
    images = images_of(tmp_path / "i", count=40, torn=(5,))
    report = tmp_path / "unreadable.txt"
    loader = TrainLoader([Source(images, batch_size=8, num_workers=workers)], seed=0, report=report)
    with caplog.at_level(logging.WARNING):
        batches = [next(loader) for _ in range(10)]
    assert all(batch.pixels.shape[0] == 8 for batch in batches)
    assert list(loader.unreadable) == [str(tmp_path / "i" / "005.png")]
    assert sum(len(batch.unreadable) for batch in batches) >= 2  # twice in two epochs
    assert caplog.text.count("skipped, unreadable") == 1
    line, = report.read_text().splitlines()
    assert line.startswith(f"{tmp_path / 'i' / '005.png'}\t")


def test_counts_and_replacements_survive_a_resume(tmp_path):
    def loader():
        return TrainLoader([Source(images_of(tmp_path / "i", torn=(2, 3)), batch_size=4)], seed=0,
                           max_unreadable_share=0.5)
    whole, first, second = loader(), loader(), loader()
    expected = [next(whole) for _ in range(9)]
    for _ in range(4):
        next(first)
    second.load_state_dict(first.state_dict())
    assert all(equal(next(second), batch) for batch in expected[4:])
    assert second.unreadable == whole.unreadable and second.state_dict() == whole.state_dict()


def test_too_large_a_share_of_unreadable_files_ends_with_their_names(tmp_path):
    images = images_of(tmp_path / "i", count=20, torn=range(0, 20, 4))
    loader = TrainLoader([Source(images, batch_size=4)], seed=0)
    with pytest.raises(DataError, match=r"(?s)samples are unreadable, more than 5\.0% are allowed.*000\.png"):
        for _ in range(50):
            next(loader)
    assert len(loader.unreadable) >= 3
    tolerant = TrainLoader([Source(images, batch_size=4)], seed=0, max_unreadable_share=0.5)
    assert len(flat(keys_of(tolerant, 50))) == 200
    strict = TrainLoader([Source(images, batch_size=20)], seed=0, max_unreadable_share=0.0)
    with pytest.raises(DataError, match=r"more than 0\.0% are allowed"):
        next(strict)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_ends_at_the_first_batch(tmp_path, workers):
    images = images_of(tmp_path / "i", count=3, torn=range(3))
    loader = TrainLoader([Source(images, batch_size=2, num_workers=workers)], seed=0,
                         max_unreadable_share=1.0)
    with pytest.raises(DataError, match=r"no readable replacement.*\n.*png: needed an image"):
        next(loader)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (3, 0), (3, 2)])
def test_validation_reads_every_sample_once_over_all_ranks(tmp_path, world_size, workers):
    images = images_of(tmp_path / "i", count=11, torn=(4,), train=False)
    source = Source(images, batch_size=2, num_workers=workers)
    loaders = [ValLoader([source], rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(2):  # a second pass is the same
        keys = [flat(batch.keys for batch in loader) for loader in loaders]
        names = sorted(key.rsplit("/", 1)[-1] for key in flat(keys))
        assert names == [f"{number:03d}.png" for number in range(11) if number != 4]
        assert all(one == sorted(one) for one in keys)
    assert sum(len(loader.unreadable) for loader in loaders) == 1


def test_validation_of_a_dataset_that_draws_is_still_deterministic(tmp_path):
    source = Source(images_of(tmp_path / "i", short_edge=(16, 18)), batch_size=5)
    one, other = (torch.cat([batch.pixels for batch in ValLoader([source])]) for _ in range(2))
    assert torch.equal(one, other)


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


def test_samples_of_different_shapes_are_named(tmp_path):
    class Sizes(Dataset):
        modality = "image"

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {"pixels": torch.zeros(3, 1, 8, 8 + index), "key": f"{index}.png"}

    with pytest.raises(ValueError, match=r"of one shape, got \[\(3, 1, 8, 8\), \(3, 1, 8, 9\)\]"):
        next(TrainLoader([Source(Sizes(), batch_size=2)], seed=0))


@pytest.mark.parametrize("count", [11, 12, 13])
def test_a_changed_number_of_samples_is_logged(tmp_path, caplog, count):
    first = TrainLoader([Source(images_of(tmp_path / "i"), batch_size=4)], seed=0)
    next(first)
    for path in (tmp_path / "i").iterdir():
        path.unlink()
    second = TrainLoader([Source(images_of(tmp_path / "i", count=count), batch_size=4)], seed=0)
    with caplog.at_level(logging.WARNING):
        second.load_state_dict(first.state_dict())
    message = f"source 0, Images, has {count} samples now and had 12 when the position was saved: they come in another"
    assert (message in caplog.text) == (count != 12) and len(caplog.records) == (count != 12)
    assert len(flat(keys_of(second, 5))) == 20

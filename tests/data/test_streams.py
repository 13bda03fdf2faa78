"""Iterable datasets, as a third party may write them."""

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from test_loader import loader_of

from toolkit.contracts import DataError, Dataset
from toolkit.data import Source, ValLoader


def sample(number):
    return {"pixels": torch.full((3, 1, 4, 4), number / 100) + torch.rand(()) / 1e3, "key": str(number)}


class Still(Dataset):
    modality = "image"


class Shuffled(Still):
    """Ten samples in another random order in every pass, from a generator function."""

    def __iter__(self):
        for number in torch.randperm(10).tolist():
            yield sample(number)


class Widening(Still):
    """Map-style without torch's base class, with images of several widths."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"pixels": torch.zeros(3, 1, 8, 8 + index), "key": f"{index}.png"}


class Counter(Iterator):
    """An iterator with a state; some numbers cannot be read."""

    def __init__(self, torn):
        self.torn, self.next = torn, 0

    def __next__(self):
        if self.next == 10:
            raise StopIteration
        self.next += 1
        if self.next - 1 in self.torn:
            raise DataError(f"{self.next - 1}.tar: torn")
        return sample(self.next - 1)

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Counted(Still):
    def __init__(self, *, torn=()):
        self.torn = torn

    def __iter__(self):
        return Counter(self.torn)


class Sharded(Still):
    """Each reader yields its own samples only."""

    index, count = 0, 1

    def shard(self, index, count):
        reader = copy.copy(self)
        reader.index, reader.count = index, count
        return reader

    def __iter__(self):
        yield from (sample(number) for number in range(10) if number % self.count == self.index)


class Resumable(Sharded):
    """Its position is in the dataset, as its iterator is a generator."""

    position = start = 0

    def __iter__(self):
        self.position, start, self.start = self.start, self.start, 0
        for number in range(start, 10):
            self.position = number + 1
            yield from [sample(number)] * (number % self.count == self.index)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.start = state["position"]


def numbers(batches):
    return [int(key) for batch in batches for key in batch.keys]


every_stream = pytest.mark.parametrize("dataset", [Shuffled(), Counted(), Sharded(), Resumable()])
in_workers_too = pytest.mark.parametrize("workers", [0, 2])


@every_stream
@in_workers_too
def test_resuming_a_stream_is_exact(dataset, workers):
    whole, first, second = (loader_of(dataset, batch_size=3, num_workers=workers) for _ in range(3))
    expected = [next(whole) for _ in range(9)]
    for _ in range(5):
        next(first)
    second.load_state_dict(first.state_dict())
    for batch in expected[5:]:
        resumed = next(second)
        assert resumed.keys == batch.keys and torch.equal(resumed.pixels, batch.pixels)


@every_stream
@in_workers_too
def test_readers_share_a_stream_without_duplicates(dataset, workers):
    source = Source(dataset, batch_size=2, num_workers=workers)
    shares = [numbers(ValLoader([source], rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(itertools.chain(*shares)) == list(range(10)) and all(shares)


def test_a_stream_starts_over_in_another_order():
    one, two = itertools.islice(loader_of(Shuffled(), batch_size=10), 2)
    assert set(one.keys) == set(two.keys) and one.keys != two.keys


def test_unreadable_samples_of_a_stream_are_skipped_and_counted_once():
    source = Source(Counted(torn=(3, 9)), batch_size=2)
    loaders = [ValLoader([source], rank=rank, world_size=2) for rank in range(2)]
    assert sorted(itertools.chain(*map(numbers, loaders))) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert loaders[1].unreadable == {"3.tar: torn": "3.tar: torn", "9.tar: torn": "9.tar: torn"}
    assert loaders[0].unreadable == {}
    train = loader_of(Counted(torn=(3, 9)), batch_size=8)
    assert len(next(train).keys) == 8 and train.unreadable == {"3.tar: torn": "3.tar: torn"}


def test_a_stream_of_nothing_readable_ends():
    with pytest.raises(DataError, match="no readable replacement"):
        next(loader_of(Counted(torn=list(range(10))), max_unreadable_share=1.0))


def test_a_generator_that_an_unreadable_file_ends_is_refused():
    class Torn(Still):
        def __iter__(self):
            yield sample(0)
            raise DataError("1.tar: torn")

    with pytest.raises(ValueError, match="Torn is iterated by a generator, which an unreadable file ends"):
        next(loader_of(Torn()))


@in_workers_too
def test_a_reader_that_never_gets_a_sample_is_an_error(workers):
    with pytest.raises(ValueError, match=r"Sharded has no sample for reader \d+ of \d+ .*smaller num_workers"):
        next(loader_of(Sharded(), num_workers=workers, rank=11, world_size=12))


@pytest.mark.parametrize("change", [dict(num_workers=2), dict(num_workers=0), dict(world_size=3)])
def test_a_position_in_a_stream_is_refused_by_other_readers_before_they_start(change):
    options = dict(num_workers=1, world_size=2)
    first, other = loader_of(Shuffled(), **options), loader_of(Shuffled(), **options | change)
    other.load_state_dict(first.state_dict())  # nothing was read of it yet
    next(first)
    message = r"source 0, Shuffled, was read by 2 processes with num_workers=1, got \d with num_workers=\d; .*resume"
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(first.state_dict())


def test_a_dataset_that_saves_its_position_is_told_to_continue_there(monkeypatch):
    first, second = (loader_of(Resumable(), batch_size=3) for _ in range(2))
    next(first)
    loaded = []
    monkeypatch.setattr(Resumable, "load_state_dict", lambda self, state: loaded.append(state))
    second.load_state_dict(first.state_dict())
    next(second)
    assert loaded == [{"position": 3}]


@pytest.mark.parametrize(("dataset", "expected"), [(Shuffled(), True), (Counted(), True), (Widening(), False)])
def test_a_dataset_with_iter_is_iterable_and_any_other_map_style(dataset, expected):
    assert Source(dataset, batch_size=1).is_iterable is expected


def test_samples_of_different_shapes_are_named():
    with pytest.raises(ValueError, match=r"of one shape, got \[\(3, 1, 8, 8\), \(3, 1, 8, 9\)\]"):
        next(loader_of(Widening()))

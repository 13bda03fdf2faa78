"""Iterable datasets, as a third party may write them."""

import copy
import itertools

import pytest
import torch

from toolkit.contracts import DataError, Dataset
from toolkit.data import Source, TrainLoader, ValLoader


def sample(number):
    return {"pixels": torch.full((3, 1, 4, 4), number / 100) + torch.rand(()) / 1e3, "key": str(number)}


class Shuffled(Dataset):
    """Ten samples in another random order in every pass, from a generator function."""

    modality = "image"

    def __iter__(self):
        for number in torch.randperm(10).tolist():
            yield sample(number)


class Numbered(Dataset):
    """Map-style without torch's base class."""

    modality = "image"

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return sample(index)


class Counter:
    """An iterator with a state; some numbers cannot be read."""

    def __init__(self, torn):
        self.torn, self.next = torn, 0

    def __iter__(self):
        return self

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


class Counted(Dataset):
    modality = "image"

    def __init__(self, *, torn=()):
        self.torn = torn

    def __iter__(self):
        return Counter(self.torn)


class Sharded(Dataset):
    """Each reader yields its own samples only."""

    modality = "image"
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


def keys(batches):
    return list(itertools.chain.from_iterable(batch.keys for batch in batches))


@pytest.mark.parametrize("dataset", [Shuffled(), Counted(), Sharded(), Resumable()])
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_a_stream_is_exact(dataset, workers):
    def loader():
        return TrainLoader([Source(dataset, batch_size=3, num_workers=workers)], seed=5)
    whole, first, second = loader(), loader(), loader()
    expected = [next(whole) for _ in range(9)]
    for _ in range(5):
        next(first)
    second.load_state_dict(first.state_dict())
    for batch in expected[5:]:
        resumed = next(second)
        assert resumed.keys == batch.keys and torch.equal(resumed.pixels, batch.pixels)


@pytest.mark.parametrize("dataset", [Shuffled(), Counted(), Sharded(), Resumable()])
@pytest.mark.parametrize("workers", [0, 2])
def test_readers_share_a_stream_without_duplicates(dataset, workers):
    source = Source(dataset, batch_size=2, num_workers=workers)
    shares = [keys(ValLoader([source], rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(map(int, itertools.chain(*shares))) == list(range(10)) and all(shares)


def test_a_stream_starts_over_in_another_order():
    loader = TrainLoader([Source(Shuffled(), batch_size=10)], seed=5)
    one, two = next(loader), next(loader)
    assert set(one.keys) == set(two.keys) and one.keys != two.keys


def test_unreadable_samples_of_a_stream_are_skipped_and_counted_once():
    source = Source(Counted(torn=(3, 9)), batch_size=2)
    loaders = [ValLoader([source], rank=rank, world_size=2) for rank in range(2)]
    read = sorted(map(int, itertools.chain(*(keys(loader) for loader in loaders))))
    assert read == [0, 1, 2, 4, 5, 6, 7, 8]
    assert loaders[1].unreadable == {"3.tar: torn": "3.tar: torn", "9.tar: torn": "9.tar: torn"}
    assert loaders[0].unreadable == {}
    train = TrainLoader([Source(Counted(torn=(3, 9)), batch_size=8)], seed=0)
    assert len(next(train).keys) == 8 and train.unreadable == {"3.tar: torn": "3.tar: torn"}


def test_a_stream_of_nothing_readable_ends():
    loader = TrainLoader([Source(Counted(torn=list(range(10))), batch_size=2)], seed=0, max_unreadable_share=1.0)
    with pytest.raises(DataError, match="no readable replacement"):
        next(loader)


def test_a_generator_that_an_unreadable_file_ends_is_refused():
    class Torn(Dataset):
        modality = "image"

        def __iter__(self):
            yield sample(0)
            raise DataError("1.tar: torn")

    with pytest.raises(ValueError, match="Torn is iterated by a generator, which an unreadable file ends"):
        next(TrainLoader([Source(Torn(), batch_size=2)], seed=0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_that_never_gets_a_sample_is_an_error(workers):
    loader = TrainLoader([Source(Sharded(), batch_size=2, num_workers=workers)], seed=0, rank=11, world_size=12)
    with pytest.raises(ValueError, match=r"Sharded has no sample for reader \d+ of \d+ .*smaller num_workers"):
        next(loader)


@pytest.mark.parametrize("change", [dict(workers=2), dict(workers=0), dict(workers=1, world_size=3)])
def test_a_position_in_a_stream_is_refused_by_other_readers_before_they_start(change):
    def loader(*, workers, world_size=2):
        return TrainLoader([Source(Shuffled(), batch_size=2, num_workers=workers)], seed=0, world_size=world_size)
    first, other = loader(workers=1), loader(**change)
    other.load_state_dict(first.state_dict())  # nothing was read of it yet
    next(first)
    message = r"source 0, Shuffled, was read by 2 processes with num_workers=1, got \d with num_workers=\d; .*resume"
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(first.state_dict())


def test_a_dataset_that_saves_its_position_is_told_to_continue_there(monkeypatch):
    first, second = (TrainLoader([Source(Resumable(), batch_size=3)], seed=0) for _ in range(2))
    next(first)
    loaded = []
    monkeypatch.setattr(Resumable, "load_state_dict", lambda self, state: loaded.append(state))
    second.load_state_dict(first.state_dict())
    next(second)
    assert loaded == [{"position": 3}]


@pytest.mark.parametrize(("dataset", "expected"), [(Shuffled(), True), (Counted(), True), (Numbered(), False)])
def test_a_dataset_with_iter_is_iterable_and_any_other_map_style(dataset, expected):
    assert Source(dataset, batch_size=1).is_iterable is expected

"""Reading ahead in threads: the order, the bound, errors and the end."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from toolkit.io.prefetch import read_ahead


def pieces_of(number: int):
    yield from range(number)


def letters(word: str):
    time.sleep(0.02 * len(word))
    yield from word


def test_items_and_pieces_keep_their_order_though_short_ones_are_ready_first():
    words = ["abcde", "f", "", "ghi", "j"]
    found = [(word, "".join(pieces)) for word, pieces in read_ahead(words, letters, num_workers=3)]
    assert found == [(word, word) for word in words]


def test_several_items_are_read_at_once():
    together = threading.Barrier(3)  # breaks if fewer than three threads come

    def read(number):
        together.wait(timeout=10)
        yield number

    assert [list(pieces) for _, pieces in read_ahead(range(6), read, num_workers=3)] == [[n] for n in range(6)]


def test_an_endless_item_is_not_read_further_ahead_than_a_few_pieces():
    made = []

    def read(item):
        for number in itertools.count():
            made.append(number)
            yield number

    reading = read_ahead(["video"], read, num_workers=2)
    _, pieces = next(reading)
    assert [next(pieces) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.1)
    assert len(made) <= 5 + 2 + 1  # two in line, one in hand
    reading.close()


def test_no_more_items_are_begun_than_asked_for():
    begun = []

    def read(item):
        begun.append(item)
        yield item

    reading = read_ahead(itertools.count(), read, num_workers=2, num_ahead=5)
    next(reading)
    time.sleep(0.2)
    assert len(begun) <= 1 + 5 + 1
    reading.close()


def test_an_error_comes_after_the_pieces_before_it_and_harms_no_other_item():
    def read(item):
        yield item
        if item == "b":
            raise OSError("torn")
        yield item

    found = {}
    for item, pieces in read_ahead("abc", read, num_workers=2):
        found[item] = taken = []
        try:
            taken.extend(iter(lambda source=pieces: next(source, None), None))
        except OSError as error:
            taken.append(str(error))
    assert found == {"a": ["a", "a"], "b": ["b", "torn"], "c": ["c", "c"]}


def test_an_error_of_the_items_is_raised_after_those_before_it():
    def items():
        yield 1
        raise OSError("no more")

    reading = read_ahead(items(), pieces_of, num_workers=3)
    assert list(next(reading)[1]) == [0]
    with pytest.raises(OSError, match="no more"):
        next(reading)


def test_pieces_that_nobody_takes_are_passed_over():
    assert [item for item, _ in read_ahead([50, 1, 9], pieces_of, num_workers=1)] == [50, 1, 9]


def test_leaving_early_ends_the_threads_and_closes_what_they_read():
    closed = []

    def read(item):
        try:
            yield from itertools.count()
        finally:
            closed.append(item)

    before = threading.active_count()
    reading = read_ahead(itertools.count(), read, num_workers=3)
    next(next(reading)[1])
    reading.close()
    assert threading.active_count() == before and sorted(closed) == [0, 1, 2]


def test_no_thread_is_an_error():
    with pytest.raises(ValueError, match="num_workers of at least 1, got 0"):
        next(read_ahead([1], pieces_of, num_workers=0))

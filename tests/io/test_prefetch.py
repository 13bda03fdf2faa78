"""Prefetching in threads: order, limit, errors and the end."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from toolkit.io.prefetch import prefetch, prefetch_next


def pieces_of(number: int):
    time.sleep(0.02 * number)
    yield from range(number)


def test_items_and_pieces_keep_their_order_and_unused_pieces_are_skipped():
    numbers = [5, 1, 0, 3, 1]
    results = [(number, list(pieces)) for number, pieces in prefetch(numbers, pieces_of, num_workers=3)]
    assert results == [(number, list(range(number))) for number in numbers]
    assert [number for number, _ in prefetch(numbers, pieces_of, num_workers=1)] == numbers


def test_several_items_are_read_at_once():
    together = threading.Barrier(3)  # breaks if fewer than three threads come

    def read(number):
        together.wait(timeout=10)
        yield number

    assert [list(pieces) for _, pieces in prefetch(range(6), read, num_workers=3)] == [[n] for n in range(6)]


def test_an_endless_item_is_not_read_further_ahead_than_a_few_pieces():
    made = []

    def read(item):
        for number in itertools.count():
            made.append(number)
            yield number

    reading = prefetch(["video"], read, num_workers=2)
    _, pieces = next(reading)
    assert [next(pieces) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.1)
    assert len(made) <= 5 + 2 + 1  # two in line, one in hand
    reading.close()


def test_number_of_items_read_at_once_is_limited():
    begun = []

    def read(item):
        begun.append(item)
        yield item

    reading = prefetch(itertools.count(), read, num_workers=2, num_ahead=5)
    next(reading)
    time.sleep(0.2)
    assert len(begun) <= 1 + 5 + 1
    reading.close()


def test_an_error_comes_after_the_pieces_before_it_and_other_items_continue():
    def read(item):
        yield item
        if item == "b":
            raise OSError("torn")
        yield item

    results = {}
    for item, pieces in prefetch("abc", read, num_workers=2):
        results[item] = []
        try:
            results[item].extend(pieces)  # keeps what comes before an error
        except OSError as error:
            results[item].append(str(error))
    assert results == {"a": ["a", "a"], "b": ["b", "torn"], "c": ["c", "c"]}


def test_an_error_of_the_items_is_raised_after_those_before_it():
    def items():
        yield 1
        raise OSError("no more")

    reading = prefetch(items(), pieces_of, num_workers=3)
    assert list(next(reading)[1]) == [0]
    with pytest.raises(OSError, match="no more"):
        next(reading)


def test_leaving_early_ends_the_threads_and_closes_what_they_read():
    closed = []

    def read(item):
        try:
            yield from itertools.count()
        finally:
            closed.append(item)

    before = threading.active_count()
    reading = prefetch(itertools.count(), read, num_workers=3)
    next(next(reading)[1])
    reading.close()
    assert threading.active_count() == before and sorted(closed) == [0, 1, 2]


def test_the_next_item_is_made_early_and_errors_are_passed_on():
    made = []

    def items():
        for number in range(3):
            made.append(number)
            yield number
        raise OSError("torn")

    stream = prefetch_next(items())
    assert next(stream) == 0
    with pytest.raises(OSError, match="torn"):
        list(stream)
    assert made == [0, 1, 2]
    made.clear()
    stream = prefetch_next(items())
    next(stream)
    stream.close()
    assert made == [0, 1]

"""Several files read at once, each piece by piece, while the caller works on the one before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

Item, Piece = TypeVar("Item"), TypeVar("Piece")


@dataclass
class _End:
    error: Exception | None = None


class _Stopped(Exception):
    """The caller has gone."""


def read_ahead(items: Iterable[Item], read: Callable[[Item], Generator[Piece, None, None]], *, num_workers: int,
               num_ahead: int | None = None) -> Iterator[tuple[Item, Iterator[Piece]]]:
    """Items in their order, each with its pieces, which threads read ahead of the caller.

    Threads and not processes: decoders release Python's lock, pieces need no copy, and a killed process
    leaves none behind. A thread holds at most two finished pieces of its item, so memory does not grow
    with an item's length.

    Args:
        items: Drawn from in the threads, one at a time.
        read: Item -> a generator of its pieces, run in a thread.
        num_workers: Threads, so items that are read at once.
        num_ahead: Items begun but not yet asked for, at most; None: ``num_workers``.

    Yields:
        (item, iterator of its pieces), to be used up before the next. An error of ``read`` is raised by that
        iterator, after the pieces before it; an error of ``items`` by this one.

    Raises:
        ValueError: If there is no thread.

    Example:
        >>> for word, letters in read_ahead(["ab", "c"], lambda word: (letter for letter in word), num_workers=2):
        ...     print(word, list(letters))
        ab ['a', 'b']
        c ['c']
    """
    if num_workers < 1:
        raise ValueError(f"read_ahead takes num_workers of at least 1, got {num_workers}.")
    source, lock, stop = iter(items), threading.Lock(), threading.Event()
    coming: queue.Queue = queue.Queue(max(num_workers, num_ahead or 0))

    def put(line: queue.Queue, value: Any) -> None:
        while not stop.is_set():
            try:
                return line.put(value, timeout=0.1)
            except queue.Full:
                pass
        raise _Stopped

    def begin() -> tuple[Item, queue.Queue] | None:
        with lock:  # whoever draws an item puts it in line, so that they stay in order
            try:
                begun = next(source), queue.Queue(2)
            except StopIteration:
                begun = _End()
            except Exception as error:
                begun = _End(error)
            put(coming, begun)
        return None if isinstance(begun, _End) else begun

    def work() -> None:
        try:
            while (begun := begin()) is not None:
                item, line = begun
                try:
                    with closing(read(item)) as pieces:
                        for piece in pieces:
                            put(line, piece)
                    end = _End()
                except Exception as error:
                    end = _End(error)
                put(line, end)
        except _Stopped:
            return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_workers)]
    for thread in threads:
        thread.start()
    try:
        for item, line in _until_end(coming):
            pieces = _until_end(line)
            yield item, pieces
            for _ in pieces:  # left over, and in their thread's way
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _until_end(line: queue.Queue) -> Iterator[Any]:
    while not isinstance(found := line.get(), _End):
        yield found
    if found.error is not None:
        raise found.error

"""Reading ahead in threads: decoders release Python's lock, items need no copy, a killed process leaves none behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

Item, Piece = TypeVar("Item"), TypeVar("Piece")


@dataclass
class _End:
    error: Exception | None = None


class _Stopped(Exception):
    """The caller has stopped reading."""


def prefetch_next(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; a thread makes the next one while the caller works on the current one."""
    end = object()
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = worker.submit(next, items, end)
            yield item


def prefetch(items: Iterable[Item], read: Callable[[Item], Generator[Piece, None, None]], *, num_workers: int,
             num_ahead: int | None = None) -> Iterator[tuple[Item, Iterator[Piece]]]:
    """Items in order, each with its pieces, which threads read in advance.

    ``read`` makes a generator of an item's pieces, which runs in one of ``num_workers`` (1 or more) threads and is at
    most two pieces ahead; ``items`` advances in the threads too, one at a time. At most ``num_ahead`` items (None:
    ``num_workers``) are in progress or finished before the caller's. The pieces of an item must be used before the
    next item. Their iterator raises an error of ``read`` after the pieces before it; this one an error of ``items``.
    """
    source, lock, stop = iter(items), threading.Lock(), threading.Event()
    started: queue.Queue = queue.Queue(max(num_workers, num_ahead or 0))

    def put(target: queue.Queue, value: Any) -> None:
        while not stop.is_set():
            try:
                return target.put(value, timeout=0.1)
            except queue.Full:
                pass
        raise _Stopped

    def start_item() -> tuple[Item, queue.Queue] | _End:
        with lock:  # drawing and queueing together keep the items in order
            try:
                entry = next(source), queue.Queue(2)
            except StopIteration:
                entry = _End()
            except Exception as error:
                entry = _End(error)
            put(started, entry)
        return entry

    def work() -> None:
        try:
            while not isinstance(entry := start_item(), _End):
                item, results = entry
                try:
                    with closing(read(item)) as pieces:
                        for piece in pieces:
                            put(results, piece)
                    end = _End()
                except Exception as error:
                    end = _End(error)
                put(results, end)
        except _Stopped:
            return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_workers)]
    for thread in threads:
        thread.start()
    try:
        for item, results in _until_end(started):
            pieces = _until_end(results)
            yield item, pieces
            for _ in pieces:  # pieces that the caller did not use
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _until_end(results: queue.Queue) -> Iterator[Any]:
    while not isinstance(value := results.get(), _End):
        yield value
    if value.error is not None:
        raise value.error

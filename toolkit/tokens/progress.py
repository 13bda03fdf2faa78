"""A progress bar of extraction and decoding on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as rich

from toolkit.io.progress import terminal_bar
from toolkit.tokens.tokenizing import Progress


@contextmanager
def progress_bar(*, visible: bool = True) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr if that is a terminal; pass what it yields as ``on_progress``.

    Args:
        visible: False in all processes but one.

    Example:
        >>> with progress_bar() as show:
        ...     show(Progress(num_shards=2, shards=0.5, frames=100))
    """
    bar = terminal_bar(rich.BarColumn(), rich.TaskProgressColumn(), rich.TextColumn("{task.description}"),
                       rich.TimeRemainingColumn(), visible=visible)
    task = bar.add_task("", total=None)

    def show(progress: Progress) -> None:
        seconds = progress.seconds or 1.0
        bar.update(task, total=progress.num_shards, completed=progress.shards, description=(
            f"{int(progress.shards)}/{progress.num_shards} shards, {progress.frames} frames, "
            f"{progress.frames / seconds:.3g} per second, {progress.waited / seconds:.0%} waiting for files"))

    with bar:
        yield show

"""How far a tool is: a bar on the terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def terminal_bar(*columns: ProgressColumn, visible: bool = True) -> Progress:
    """A bar on stderr, seen only where that is a terminal, and gone at its end.

    Example:
        >>> with terminal_bar(BarColumn()) as bar:
        ...     task = bar.add_task("", total=2)
        ...     bar.advance(task)
    """
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal))


class FrameBar(AbstractContextManager):
    """The frames of one file after another, on stderr and only where that is a terminal.

    Args:
        num_files: How many there are.

    Example:
        >>> with FrameBar(2) as bar:
        ...     bar.begin("a.mp4", num_frames=100)
        ...     bar.advance(17)
    """

    def __init__(self, num_files: int):
        self._progress = terminal_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                                      TextColumn("frames"), _Rate(), TimeRemainingColumn())
        self._task = self._progress.add_task("", total=None)
        self._begun, self._num_files = 0, num_files

    def begin(self, name: str, *, num_frames: int | None) -> None:
        """Show the next file; None if nobody knows its number of frames."""
        self._begun += 1
        count = f"{self._begun}/{self._num_files} " if self._num_files > 1 else ""
        self._progress.reset(self._task, total=num_frames, description=f"{count}{name}")

    def advance(self, frames: int) -> None:
        """So many frames more are done."""
        self._progress.advance(self._task, frames)

    def __enter__(self) -> FrameBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.3g} per second")

"""Progress bars on the terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def terminal_bar(*columns: ProgressColumn, visible: bool = True) -> Progress:
    """A bar on stderr, shown only on a terminal and removed at its end."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal))


class FrameBar(AbstractContextManager):
    """A bar that counts the frames of one file after another, ``num_files`` in all."""

    def __init__(self, num_files: int):
        self._progress = terminal_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                                      TextColumn("frames"), _Rate(), TimeRemainingColumn())
        self._task = self._progress.add_task("", total=None)
        self._file, self._num_files = 0, num_files

    def begin(self, name: str, *, num_frames: int | None) -> None:
        """Show the next file; ``num_frames`` is None if its number of frames is unknown."""
        self._file += 1
        count = f"{self._file}/{self._num_files} " if self._num_files > 1 else ""
        self._progress.reset(self._task, total=num_frames, description=f"{count}{name}")

    def advance(self, frames: int) -> None:
        """Count ``frames`` more finished frames."""
        self._progress.advance(self._task, frames)

    def __enter__(self) -> FrameBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.3g} per second")

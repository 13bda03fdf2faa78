"""Progress bars on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class TerminalBar(Progress):
    """A bar on stderr, shown only on a terminal and removed at its end."""

    def __init__(self, *columns: ProgressColumn, visible: bool = True):
        console = Console(stderr=True)
        super().__init__(*columns, console=console, transient=True, disable=not (visible and console.is_terminal))


class FrameBar(TerminalBar):
    """A bar that counts the frames of one file after another, ``num_files`` in all."""

    def __init__(self, num_files: int):
        super().__init__(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"),
                         _Rate(), TimeRemainingColumn())
        self._frames = self.add_task("", total=None)
        self._file, self._num_files = 0, num_files

    def begin(self, name: str, *, num_frames: int | None) -> None:
        """Show the next file; ``num_frames`` is None if its number of frames is unknown."""
        self._file += 1
        count = f"{self._file}/{self._num_files} " if self._num_files > 1 else ""
        self.reset(self._frames, total=num_frames, description=f"{count}{name}")

    def add_frames(self, frames: int) -> None:
        """Count ``frames`` more finished frames."""
        self.advance(self._frames, frames)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.3g} per second")

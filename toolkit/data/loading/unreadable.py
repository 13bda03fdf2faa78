"""Unreadable samples: the list of their files, and the limit of their share."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from toolkit.contracts import DataError

logger = logging.getLogger(__name__)

# The share is computed as if at least this many samples had been tried, so that one damaged file among the first
# samples does not end a run.
MIN_TRIED = 200
# The report has one line per file and a tab between its two columns, so tabs and line breaks in names are escaped.
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


class UnreadableFiles:
    """Unreadable samples of one process: logged once per file, counted, and limited in share.

    ``max_share`` is the largest share of unreadable samples among those tried; 0 tolerates none. The text file
    ``report`` gets a line "path, tab, error message" per file; several processes may write to it. A path is written
    with the bytes of the file's name; backslashes, tabs and line breaks are escaped. ``reasons`` has path -> error
    message; in ``num_tried`` and ``num_unreadable`` samples a file counts every time.
    """

    def __init__(self, *, max_share: float, report: str | os.PathLike | None = None):
        if not 0.0 <= max_share <= 1.0:
            raise ValueError(f"max_unreadable_share takes a share in [0, 1], got {max_share}.")
        self.max_share, self.report = max_share, None if report is None else Path(report)
        self.reasons: dict[str, str] = {}
        self.num_tried, self.num_unreadable = 0, 0

    def add(self, failures: Sequence[tuple[str, str]], *, num_readable: int) -> None:
        """Count samples: (path, error message) of the unreadable ones. A DataError if their share is too large."""
        self.num_tried += num_readable + len(failures)
        self.num_unreadable += len(failures)
        for path, reason in failures:
            if path in self.reasons:
                continue
            self.reasons[path] = reason
            # names that are no UTF-8 cannot be logged as they are
            logger.warning("skipped, unreadable: %s", reason.encode(errors="backslashreplace").decode())
            if self.report is not None:
                self._write(path, reason)
        if self.num_unreadable > self.max_share * max(self.num_tried, MIN_TRIED):
            raise self.error(f"more than {self.max_share:.1%} are allowed; repair or remove the files, "
                             "or raise max_unreadable_share")

    def _write(self, path: str, reason: str) -> None:
        path, reason = path.translate(ESCAPES), reason.translate(ESCAPES)
        with self.report.open("a+", encoding="utf-8", errors="surrogateescape") as lines:
            lines.seek(0)
            # another loader, another process or the run before a resume may have listed the file
            if not any(line.startswith(f"{path}\t") for line in lines):
                lines.write(f"{path}\t{reason}\n")

    def error(self, advice: str) -> DataError:
        """A DataError with the counts and the first ten messages."""
        reasons = list(self.reasons.values())
        more = f"\n  ... and {len(reasons) - 10} more files" if len(reasons) > 10 else ""
        return DataError(f"{self.num_unreadable} of {self.num_tried} samples are unreadable, {advice}:\n  "
                         + "\n  ".join(reasons[:10]) + more)

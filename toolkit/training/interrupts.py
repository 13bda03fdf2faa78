"""Ctrl-C and SIGTERM as a wish to stop after the current step."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType

logger = logging.getLogger(__name__)


# One wish may come twice: a launcher passes on what its processes have got already, and timeout(1) tells a process
# and then its whole group.
ECHO = 2.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.1  # seconds


class Interrupts:
    """Within it, the first SIGINT or SIGTERM sets ``requested``; a second one, after its echo, stops at once.

    Example:
        >>> import os
        >>> with Interrupts() as interrupts:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     interrupts.requested
        True
    """

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if time.monotonic() - self._first < ECHO:
                return
            signal.signal(number, self._previous[number])
            raise KeyboardInterrupt
        self.requested, self._first = True, time.monotonic()
        logger.warning("stopping after this step, with a checkpoint; once more to stop at once, without.")

    def __enter__(self) -> Interrupts:
        self._previous = {number: signal.signal(number, self._handle)
                          for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

"""Ctrl-C and SIGTERM as a wish to stop after the current step."""

from __future__ import annotations

import logging
import signal
from types import FrameType

logger = logging.getLogger(__name__)


class Interrupts:
    """Within it, the first SIGINT or SIGTERM sets ``requested``; a second one stops at once.

    Example:
        >>> import os
        >>> with Interrupts() as interrupts:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     interrupts.requested
        True
    """

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, self._previous[number])
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("stopping after this step, with a checkpoint; once more to stop at once, without.")

    def __enter__(self) -> Interrupts:
        self._previous = {number: signal.signal(number, self._handle)
                          for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

"""An end that hangs is cut: a thread that waits for a disk cannot be cancelled.

One rule: what is stored is whole at any moment, so nothing is lost by it but what was not answered yet.
"""

from __future__ import annotations

import logging
import os
import threading

from enseada import logs

END_HUNG = 3
"""The exit code of a process that was cut."""
LAST_MOMENTS = 20.0
"""Seconds after the grace, or after a second signal, in which uploads are saved and stores are closed. An end that
takes longer hangs."""

log = logging.getLogger("enseada.cli")


class Watchdog:
    """Ends the process after a time by all means, unless its context ends before."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._stop()

    def start(self, seconds: float) -> None:
        """Give the process so many seconds from now, whatever it had."""
        self._stop()
        self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _cut() -> None:
        log.error("the end hangs, perhaps over a disk that does not answer: cut")
        for handler in logging.getLogger(logs.ROOT).handlers:
            handler.flush()
        os._exit(END_HUNG)

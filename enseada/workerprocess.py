"""A worker as its supervisor sees it: a process, a socket to speak to it, and how it ended.

One rule: nothing here waits. A worker that does not take what it is told is killed.

The process is a fresh interpreter, and has none of our memory, threads or connections: only what it is given. Signals
that end the whole group are blocked in it from its first moment; `enseada.worker` says what becomes of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from enseada.config import PREFIX
from enseada.orders import Failed, Lines, Ready, decode_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENDING_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
CHUNK = 65536
"""Bytes of what a worker says that are received at once."""
_FLAGS = {
    "isolated": "-I",
    "ignore_environment": "-E",
    "no_user_site": "-s",
    "no_site": "-S",
    "dont_write_bytecode": "-B",
}


class WorkerProcess:
    """A worker's process. To be closed when it has ended."""

    def __init__(self, files: Iterable[int]) -> None:
        """Start it; it inherits the descriptors ``files`` under the same numbers. Raises OSError."""
        self.control, theirs = socket.socketpair()
        self._lines = Lines()
        try:
            self.control.setblocking(False)
            with theirs:
                before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, *_interpreter(), "-m", "enseada.worker", str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno(), *files],
                        env=_environment(),
                    )
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            self.control.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: bytes) -> None:
        """Send it a line."""
        data = message + b"\n"
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended
            try:
                if self.control.send(data) == len(data):
                    return
            except BlockingIOError:
                pass
            self.kill()

    def answers(self) -> Iterator[Ready | Failed]:
        """What it has said since. Raises EOFError once it can say nothing more."""
        while True:
            try:
                data = self.control.recv(CHUNK)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            for line in self._lines.feed(data):
                yield decode_answer(line)

    def kill(self) -> None:
        """End it by force."""
        self._process.kill()

    def ended(self) -> int | None:
        """Its exit code, or less than zero: the signal that killed it; None while it runs. It is no zombie then."""
        return self._process.poll()

    def close(self) -> None:
        """Have nothing more to say. A worker that still runs takes that for the end."""
        self.control.close()


def _interpreter() -> Iterator[str]:
    """The flags that ours was started with."""
    for name, flag in _FLAGS.items():
        if getattr(sys.flags, name):
            yield flag
    if sys.flags.optimize:
        yield "-" + "O" * sys.flags.optimize
    for each in sys.warnoptions:
        yield f"-W{each}"
    for key, value in sys._xoptions.items():
        yield f"-X{key}" if value is True else f"-X{key}={value}"
    yield "-P"  # `-m` alone would look for modules in the working directory first, whatever lies there


def _environment() -> dict[str, str]:
    """Ours, without settings, which come by the order; modules are found where we have found them."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    return environment

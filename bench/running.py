"""Programs that a run starts, and ends again however the run ends.

One rule: whoever starts a program holds it in a ``with``, which ends it by its own process id: asked first,
then killed.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import IO, TYPE_CHECKING, TypeAlias, TypeVar

from bench.cache import PATH
from bench.errors import CannotMeasure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
START_TIMEOUT = 30.0
"""Seconds in which a server must answer."""
STOP_TIMEOUT = 10.0
"""Seconds in which it must end when it is asked to; then it is killed."""
POLL = 0.001
"""Seconds between two looks whether a server answers."""
T = TypeVar("T")
LOG_SHOWN = 2000
"""Characters of a program's log that an error shows."""


@contextmanager
def program(
    command: Sequence[str | Path], log: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` while the block runs, with what it writes in ``log``. Raises CannotMeasure if it is not here."""
    words = [str(word) for word in command]
    found = shutil.which(words[0], path=PATH)
    if found is None:
        raise CannotMeasure(f"the program {words[0]} is not here")
    with (
        log.open("ab") as sink,
        child(
            [found, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=clean_environment() | dict(environment or {}),
        ) as process,
    ):
        yield process


@contextmanager
def child(
    command: Sequence[str],
    *,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    env: Mapping[str, str],
    patience: float | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in the checkout while the block runs; ended at its end, as `stop` does.

    A signal that ends the harness cannot come between the start of the process and the care for its end.
    """
    process = None
    try:
        with _signals_deferred():
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=ROOT,
                # Its own group: ctrl-C on a terminal is for the harness, which then ends what it started.
                start_new_session=True,
            )
        yield process
    finally:
        if process is not None:
            with _signals_deferred():
                stop(process, STOP_TIMEOUT if patience is None else patience)


def stop(process: subprocess.Popen[bytes], patience: float) -> None:
    """End it and what it left in its group; killed after ``patience`` seconds."""
    if process.poll() is None and patience:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP act after the block. In other threads than the main one they never act."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in (SIGINT, SIGTERM, SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            os.kill(os.getpid(), number)


def clean_environment() -> dict[str, str]:
    """The environment without what would change a server under measurement."""
    dropped = ("ENSEADA_", "PYTHON", "REGISTRY_", "OTEL_", "AWS_", "GOMAXPROCS", "GOGC", "GODEBUG")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | {"PATH": PATH}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def first_status(
    port: int, process: subprocess.Popen[bytes], log: Path, headers: Mapping[str, str] | None = None
) -> int:
    """Ask for ``/v2/`` until it answers; the status of that answer, whatever it is. Raises CannotMeasure."""
    status, _, _ = _until(lambda: get(port, "/v2/", headers), port, process, log)
    return status


def wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it takes connections. Raises CannotMeasure."""
    _until(lambda: socket.create_connection(("127.0.0.1", port)).close(), port, process, log)


def _until(attempt: Callable[[], T], port: int, process: subprocess.Popen[bytes], log: Path) -> T:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            return attempt()
        time.sleep(POLL)
    said = log.read_text(errors="replace")[-LOG_SHOWN:]
    raise CannotMeasure(f"{process.args!r} does not answer on port {port}:\n{said}")


Reply: TypeAlias = tuple[int, "http.client.HTTPMessage", bytes]
"""Status, fields and body."""


def get(port: int, target: str, headers: Mapping[str, str] | None = None) -> Reply:
    """One GET on a connection of its own. Raises OSError, http.client.HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    try:
        connection.request("GET", target, headers=dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        return response.status, response.headers, content
    finally:
        connection.close()


@contextmanager
def scratch() -> Iterator[Path]:
    """A fresh folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="enseada-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def output_of(*command: str | Path, timeout: float = START_TIMEOUT) -> str:
    """What a program that must succeed writes. Raises CannotMeasure."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            env=clean_environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=True,
        )
    except FileNotFoundError:
        raise CannotMeasure(f"the program {command[0]} is not here") from None
    except subprocess.CalledProcessError as reason:
        said = reason.stdout.decode(errors="replace")[-LOG_SHOWN:]
        raise CannotMeasure(f"{reason.cmd!r} failed:\n{said}") from None
    except subprocess.TimeoutExpired:
        raise CannotMeasure(f"{command!r} did not end in {timeout} s") from None
    return done.stdout.decode(errors="replace")

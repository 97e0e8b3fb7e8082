"""Log lines: one a request, for people on a terminal, JSON for everything else.

One rule: what a client sent can neither forge a line nor put a secret into one. Every text is escaped, a query's
values are shown only for the names on a list, and headers are never shown. And a standard error that nobody reads, be
it a full pipe or a terminal after ctrl-S, stops nothing: a thread writes the lines, and those that find no room in its
queue are dropped and counted. Processes that write to one stream take turns, so that no line is cut by another's.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = "enseada"
"""The logger above all of ours. A host program configures it as any other."""
REQUESTS = "enseada.requests"
"""The logger that gets one line a request."""
HIDDEN = "***"
QUEUE_CHARACTERS = 4 * 1024 * 1024
"""Characters of lines that may wait to be written; as many may be on their way out. Some 15,000 requests."""
GATHER_TIME = 0.01
"""Seconds that a line may wait for others to be written with it: to wake a thread costs more than to make a line. A
process that is killed loses as much."""
FLUSH_TIMEOUT = 2.0
"""Seconds that an end waits, at most, for lines to be written."""

SHOWN_PARAMS = frozenset(
    {
        "_method", "account", "access_type", "artifactType", "client_id", "digest", "digest-algorithm", "from",
        "grant_type", "last", "mount", "n", "offline_token", "orphan", "scope", "service", "size", "tag", "text",
    }
)  # fmt: skip
"""Query parameters whose values may be in a log; all others, signatures among them, are hidden."""

_NOT_OURS = frozenset({501, 505})
"""What a client asked for that nobody here ever had: a method, a coding, a version of HTTP."""
_LEVELS = {logging.INFO: "info", logging.ERROR: "error"}
_root = logging.getLogger(ROOT)
_requests = logging.getLogger(REQUESTS)
_configured: LineWriter | None = None  # what `configure` has set up

# npm: DELETE /-/user/token/TOKEN, DELETE /-/npm/v1/tokens/token/KEY, where KEY may be the token itself.
_SECRET_PATH = re.compile(r"(/-/(?:user|npm/v1/tokens)/token/)[^/]+", re.IGNORECASE)


class Exchange(Protocol):
    """A request and what was answered, when it is over."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def subject(self) -> str: ...
    @property
    def client(self) -> str | None: ...
    @property
    def id(self) -> str: ...
    @property
    def error(self) -> str | None:
        """What went wrong, where it is more than a refusal."""


def escape(text: str) -> str:
    """``text`` in which nothing breaks a line, moves a cursor or turns the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def mask_query(query: str) -> str:
    """``query`` with the values hidden of all parameters that are not in `SHOWN_PARAMS`."""
    if not query:
        return ""
    shown = []
    for pair in query.split("&"):
        name, equals, _ = pair.partition("=")
        if name in SHOWN_PARAMS:
            shown.append(pair)
        elif equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(HIDDEN if pair else "")  # a value without a name
    return "&".join(shown)


def mask_path(path: str) -> str:
    """``path`` with the secrets hidden that some protocols put there."""
    if "/token/" not in path.lower():
        return path
    return _SECRET_PATH.sub(rf"\g<1>{HIDDEN}", path)


def target(exchange: Exchange) -> str:
    """The request target as it may be shown."""
    query = mask_query(exchange.query)
    shown = mask_path(exchange.path) + (f"?{query}" if query else "")
    return escape(shown).replace(" ", "\\x20")


def log_exchange(exchange: Exchange, logger: logging.Logger | None = None) -> None:
    """Write the line of a request that is over: an error if we failed it, info otherwise.

    Where `configure` alone listens the line goes straight to it: what `logging` does on the way costs twice as much.
    """
    logger = logger or _requests
    level = logging.INFO if exchange.status < 500 or exchange.status in _NOT_OURS else logging.ERROR
    if not logger.isEnabledFor(level):
        return
    if logger is _requests and _configured is not None and _is_only_listener(_configured):
        _configured.write_exchange(level, exchange)
        return
    # Made by hand: Logger.info would look up the caller's frame for every request.
    record = logger.makeRecord(logger.name, level, "", 0, "%(method)s %(target)s %(status)s", (fields(exchange),), None)
    logger.handle(record)


def _is_only_listener(writer: LineWriter) -> bool:
    """Whether what is said to the logger of requests reaches ``writer``, unchanged, and nobody else."""
    return (
        _root.handlers == [writer]
        and not (_root.propagate or _requests.handlers or _requests.filters or writer.filters)
        and _requests.propagate
    )


def fields(exchange: Exchange) -> dict[str, Any]:
    """What a request's line says, escaped and masked, as JSON-serialisable values."""
    named: dict[str, Any] = {
        "method": escape(exchange.method),
        "target": target(exchange),
        "status": exchange.status,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "seconds": round(exchange.seconds, 6),
        "subject": escape(exchange.subject),
        "client": None if exchange.client is None else escape(exchange.client),
        "id": escape(exchange.id),
    }
    if exchange.error is not None:
        named["error"] = escape(exchange.error)
    return named


def _request(record: logging.LogRecord) -> dict[str, Any] | None:
    # logging unwraps a single mapping given as the arguments.
    return record.args if record.name == REQUESTS and isinstance(record.args, dict) else None


def _stamp(created: float) -> str:
    """RFC 3339 with milliseconds, in UTC."""
    seconds, milliseconds = divmod(int(created * 1000), 1000)
    return f"{_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class ExchangeFormatter(logging.Formatter):
    """One that can do without a LogRecord for a request's line."""

    def line(self, created: float, level: int, request: dict[str, Any]) -> str:
        """The line of a request, whose `fields` these are; ``created``: seconds since 1970."""
        raise NotImplementedError


class JSONFormatter(ExchangeFormatter):
    """One JSON object a line; ``worker`` is in it, where there are several."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}
        self._encoder = msgspec.json.Encoder()

    def line(self, created: float, level: int, request: dict[str, Any]) -> str:
        line = {"time": _stamp(created), "level": _LEVELS[level], "logger": REQUESTS, **self._worker, **request}
        return self._encoder.encode(line).decode()

    def format(self, record: logging.LogRecord) -> str:
        request = _request(record)
        if request is not None:
            return self.line(record.created, record.levelno, request)
        line: dict[str, Any] = {"time": _stamp(record.created), "level": record.levelname.lower()}
        line["logger"] = record.name
        line |= self._worker
        line["message"] = escape(record.getMessage())
        if record.exc_info:
            line["traceback"] = "\n".join(_traceback(self, record.exc_info))
        return self._encoder.encode(line).decode()


class TextFormatter(ExchangeFormatter):
    """One line for people; a traceback follows, indented, so that no text in it can pass for a line of its own."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = "" if worker is None else f"[{worker}] "

    def line(self, created: float, level: int, request: dict[str, Any]) -> str:
        return f"{_stamp(created)} {_LEVELS[level]:<7} {self._worker}{_sentence(request)}"

    def format(self, record: logging.LogRecord) -> str:
        request = _request(record)
        if request is not None:
            return self.line(record.created, record.levelno, request)
        line = f"{_stamp(record.created)} {record.levelname.lower():<7} {self._worker}{escape(record.getMessage())}"
        if record.exc_info:
            line += "".join(f"\n    {each}" for each in _traceback(self, record.exc_info))
        return line


def _sentence(request: dict[str, Any]) -> str:
    said = f"{request['method']} {request['target']} {request['status']}"
    said += f" in={request['bytes_in']} out={request['bytes_out']} {request['seconds'] * 1000:.1f}ms"
    said += f" subject={request['subject']} client={request['client'] or 'unix'} id={request['id']}"
    return said + (f" error={request['error']}" if "error" in request else "")


def _traceback(formatter: logging.Formatter, info: Any) -> list[str]:
    return [escape(each) for each in formatter.formatException(info).splitlines()]


class LineWriter(logging.Handler):
    """Writes lines to ``stream`` from a thread of its own, in their order, and never makes anybody wait.

    What finds no room is dropped, and so is all that follows until the thread takes what waits; a line says then how
    many they were.
    """

    def __init__(self, stream: TextIO, formatter: ExchangeFormatter, turn: int | None = None) -> None:
        """``turn``: see `configure`."""
        super().__init__()
        self.setFormatter(formatter)
        self._exchanges = formatter
        self._write = _writer(stream, turn)
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._characters = 0
        self._dropped = 0
        self._over = threading.Event()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        # A daemon: one that is stuck in a write cannot be ended, and must not keep the process.
        self._thread = threading.Thread(target=self._run, name="enseada-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record, and queue its line."""
        try:
            line = self.format(record) + "\n"
        except Exception:
            self.handleError(record)
            return
        self._queue(line)

    def write_exchange(self, level: int, exchange: Exchange) -> None:
        """Queue the line of a request."""
        if level >= self.level:
            self._queue(self._exchanges.line(time.time(), level, fields(exchange)) + "\n")

    def _queue(self, line: str) -> None:
        with self._lock:
            if self._dropped or (self._lines and self._characters + len(line) > QUEUE_CHARACTERS):
                self._dropped += 1
                return
            self._lines.append(line)
            self._characters += len(line)
            if len(self._lines) > 1:
                return
            self._idle.clear()
        self._wake.set()

    def flush(self) -> None:
        """Wait until what was queued is written, for `FLUSH_TIMEOUT` seconds at most."""
        if not self._over.is_set():
            self._idle.wait(FLUSH_TIMEOUT)

    def close(self) -> None:
        """Flush, and end the thread; one that is stuck in a write is left behind. Safe any number of times."""
        if not self._over.is_set():
            self._over.set()
            self._wake.set()
            self._thread.join(FLUSH_TIMEOUT)
        super().close()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            over = self._over.wait(GATHER_TIME)
            while lines := self._take():
                self._write("".join(lines))
            if over:
                return

    def _take(self) -> list[str]:
        with self._lock:
            lines, dropped = self._lines, self._dropped
            self._lines, self._characters, self._dropped = [], 0, 0
            if not lines:
                self._idle.set()
        if dropped:
            said = "%d lines are missing here: nobody took what was written"
            record = logging.LogRecord(f"{ROOT}.logs", logging.WARNING, "", 0, said, (dropped,), None)
            lines.append(self.format(record) + "\n")
        return lines


def _writer(stream: TextIO, turn: int | None) -> Callable[[str], None]:
    """What writes text to ``stream`` when it is our ``turn``, or to nobody if it is closed.

    To a file it writes beside the stream's buffer: that has a lock, and an interpreter that ends while a thread is
    stuck with it aborts.
    """
    try:
        stream.flush()
        fd = stream.fileno()
    except (OSError, ValueError):
        fd = -1

    def write(text: str) -> None:
        try:
            if fd < 0:
                stream.write(text)
                stream.flush()
            else:
                with _taken(turn):
                    write_all(fd, text.encode(stream.encoding or "utf-8", "backslashreplace"))
        except (OSError, ValueError):
            pass  # there is nobody to be told

    return write


@contextmanager
def _taken(turn: int | None) -> Iterator[None]:
    """Hold the turn to write. Blocks: for a thread. Raises OSError. A process that dies gives it back."""
    if turn is None:
        yield
        return
    # Not flock(2): that belongs to the open file, which the processes have in common.
    fcntl.lockf(turn, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(turn, fcntl.LOCK_UN)


def make_turn() -> int:
    """A file descriptor for `configure` and the processes that are to inherit it. Raises OSError."""
    return os.memfd_create("enseada-log-turn", os.MFD_CLOEXEC)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``, also where the file does not block by itself. Blocks: for a thread. Raises OSError."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            room = select.poll()
            room.register(fd, select.POLLOUT)
            room.poll()


@contextmanager
def configure(
    format: Literal["auto", "text", "json"],
    level: str,
    stream: TextIO | None,
    *,
    turn: int | None = None,
    worker: int | None = None,
) -> Iterator[None]:
    """Within the context, write our log lines to ``stream``; afterwards everything is as it was.

    ``stream`` None (a standard error that was closed before we began): they are written to nobody. ``auto`` is text
    where the stream is a terminal. Lines do not go to the root logger meanwhile. The end waits up to `FLUSH_TIMEOUT`
    for lines that are still to be written.

    ``turn`` (`make_turn`) is what processes have in common that write to one stream: then their lines stay whole,
    whatever it is and however long they are. (By themselves only writes to a pipe of at most PIPE_BUF bytes would.)
    Each is the process ``worker``, whose number its lines bear.
    """
    if stream is None:
        with (
            open(os.devnull, "w", encoding="utf-8") as nobody,
            configure(format, level, nobody, turn=turn, worker=worker),
        ):
            yield
        return
    global _configured
    text = format == "text" or (format == "auto" and stream.isatty())
    handler = LineWriter(stream, TextFormatter(worker) if text else JSONFormatter(worker), turn)
    before = (_root.level, _root.propagate, _configured)
    _root.addHandler(handler)
    _root.setLevel(level.upper())
    _root.propagate = False
    _configured = handler
    try:
        yield
    finally:
        _root.removeHandler(handler)
        _root.setLevel(before[0])
        _root.propagate, _configured = before[1:]
        handler.close()

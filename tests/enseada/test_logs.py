"""Log lines: one a request, whole, without secrets, and impossible to forge."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enseada import logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Over:
    """A request that is over."""

    method: str = "GET"
    path: str = "/v2/"
    query: str = ""
    status: int = 200
    bytes_in: int = 3
    bytes_out: int = 4
    seconds: float = 0.0125
    subject: str = "admin"
    client: str | None = "127.0.0.1"
    id: str = "r1"
    error: str | None = None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write(exchange: Over, format: str = "json", level: str = "info", worker: int | None = None) -> str:
    stream = io.StringIO()
    with logs.configure(format, level, stream, worker=worker):  # type: ignore[arg-type]
        logs.log_exchange(exchange)
    return stream.getvalue()


def test_every_handler_has_a_lock() -> None:
    """`logging` takes it by different means in different releases of Python."""
    with logs.configure("json", "info", io.StringIO()):
        [handler] = logging.getLogger(logs.ROOT).handlers
        assert handler.lock is not None
        with handler.lock:
            pass


def test_whoever_else_listens_gets_requests_too() -> None:
    heard: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record)

    listener = Listener()
    stream = io.StringIO()
    for name in (logs.ROOT, logs.REQUESTS):
        with logs.configure("json", "info", stream):
            logging.getLogger(name).addHandler(listener)
            try:
                logs.log_exchange(Over())
            finally:
                logging.getLogger(name).removeHandler(listener)
    assert [record.getMessage() for record in heard] == ["GET /v2/ 200"] * 2
    alone = json.loads(write(Over()))
    for line in map(json.loads, stream.getvalue().splitlines()):
        assert line | {"time": ""} == alone | {"time": ""}


@pytest.mark.parametrize("status", [200, 404, 501, 505])
def test_what_a_client_asked_in_vain_is_no_error(status: int) -> None:
    assert json.loads(write(Over(status=status)))["level"] == "info"


def test_a_request_is_one_json_object() -> None:
    line = json.loads(write(Over(query="n=3", bytes_in=7)))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "logger": "enseada.requests", "method": "GET", "target": "/v2/?n=3", "status": 200,
        "bytes_in": 7, "bytes_out": 4, "seconds": 0.0125, "subject": "admin", "client": "127.0.0.1", "id": "r1",
    }  # fmt: skip


def test_a_request_is_one_line_of_text() -> None:
    line = write(Over(client=None, status=499, error="the client has gone"), "text")
    assert line.endswith(
        " info    GET /v2/ 499 in=3 out=4 12.5ms subject=admin client=unix id=r1 error=the client has gone\n"
    )


def test_a_worker_is_told() -> None:
    assert json.loads(write(Over(), worker=3))["worker"] == 3
    assert " info    [3] GET /v2/ 200 " in write(Over(), "text", worker=3)


def test_what_we_failed_is_an_error() -> None:
    assert json.loads(write(Over(status=500, error="KeyError: 'x'"), level="error"))["error"] == "KeyError: 'x'"
    assert json.loads(write(Over(status=503), level="error"))["level"] == "error"
    assert write(Over(status=404), level="error") == ""


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ""),
        ("digest=sha256:ab&mount=x&from=a%2Fb", "digest=sha256:ab&mount=x&from=a%2Fb"),
        ("service=e&scope=repository:a:pull&account=ann", "service=e&scope=repository:a:pull&account=ann"),
        ("n=1&X-Amz-Signature=abc&last=t", "n=1&X-Amz-Signature=***&last=t"),
        ("token=a&refresh_token=b&password=c", "token=***&refresh_token=***&password=***"),
        ("DIGEST=secret", "DIGEST=***"),
        ("%64igest=secret", "%64igest=***"),
        ("secret", "***"),
        ("secret&n=1&", "***&n=1&"),
        ("a=b=c", "a=***"),
    ],
)
def test_values_of_unknown_parameters_are_hidden(query: str, shown: str) -> None:
    assert logs.mask_query(query) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/npm/main/-/user/token/npm_secret", "/npm/main/-/user/token/***"),
        ("/npm/main/-/npm/v1/tokens/token/npm_secret", "/npm/main/-/npm/v1/tokens/token/***"),
        ("/npm/main/-/USER/Token/npm_secret/x", "/npm/main/-/USER/Token/***/x"),
        ("/v2/token/blobs/sha256:ab", "/v2/token/blobs/sha256:ab"),
        ("/v2/_token", "/v2/_token"),
    ],
)
def test_secrets_in_paths_are_hidden(path: str, shown: str) -> None:
    assert logs.mask_path(path) == shown
    assert json.loads(write(Over(path=path)))["target"] == shown


NASTY = "x\n2026-01-01T00:00:00.000Z info    GET /forged\r\u2028\u202e\x1b[2J\x85\udc80 y"


@given(st.text(), st.text(), st.sampled_from(["text", "json"]))
@example(NASTY, NASTY, "text")
@example(NASTY, NASTY, "json")
def test_no_request_can_forge_a_line(path: str, other: str, format: str) -> None:
    value = path.replace("&", "")
    exchange = Over(method=other, path=path, query=f"n={value}", subject=other, client=other, id=other, error=other)
    written = write(exchange, format)
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    if format == "json":
        assert json.loads(written)["subject"] == logs.escape(other)
    else:
        assert f"?n={logs.escape(value)}".replace(" ", "\\x20") in written


@given(st.text(alphabet="abcdefghij", min_size=12), st.text(min_size=1, max_size=8))
def test_no_secret_value_is_shown(secret: str, name: str) -> None:
    name = quote(name, safe="")
    shown = logs.mask_query(f"n=1&{name}={secret}&{secret}")
    assert (secret in shown) == (name in logs.SHOWN_PARAMS or secret in name)


def failing(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_traceback_cannot_forge_a_line_either(format: str) -> None:
    stream = io.StringIO()
    with logs.configure(format, "info", stream):  # type: ignore[arg-type]
        try:
            failing(NASTY)
        except ValueError:
            logging.getLogger("enseada.connection").exception("request %s failed: %s", "r1", NASTY)
    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    if format == "json":
        [line] = lines
        read = json.loads(line)
        assert read["message"] == f"request r1 failed: {logs.escape(NASTY)}"
        assert "in failing" in read["traceback"]
        assert read["level"] == "error"
    else:
        assert len(lines) > 4
        assert all(line.startswith("    ") for line in lines[1:])
        assert any("in failing" in line for line in lines)


def test_auto_looks_at_the_stream() -> None:
    for stream, is_text in ((Terminal(), True), (io.StringIO(), False)):
        with logs.configure("auto", "info", stream):
            logging.getLogger("enseada.x").info("hello")
        assert stream.getvalue().startswith("{") is not is_text


def test_everything_is_as_it_was_afterwards() -> None:
    logger = logging.getLogger(logs.ROOT)
    before = (logger.level, logger.propagate, list(logger.handlers))
    with pytest.raises(ValueError, match="inside"), logs.configure("text", "debug", io.StringIO()):
        failing(f"inside, at {logger.getEffectiveLevel()}")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_a_host_program_may_format_the_lines_itself(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logs.ROOT):
        logs.log_exchange(Over())
    assert caplog.messages == ["GET /v2/ 200"]


# -- the thread that writes


@contextmanager
def pipe(*, blocking: bool = True) -> Iterator[tuple[TextIO, TextIO]]:
    """Where to read, and where to write."""
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    with open(reading) as source, open(writing, "w", encoding="utf-8") as sink:
        yield source, sink


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "enseada-log"]


@pytest.mark.parametrize("blocking", [True, False])
def test_nobody_waits_for_a_reader_and_what_is_missing_is_told(
    blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More lines than the pipe and the queue hold; then somebody reads. Lines are missing where it is said."""
    monkeypatch.setattr(logs, "QUEUE_CHARACTERS", 100_000)
    monkeypatch.setattr(logs, "FLUSH_TIMEOUT", 30)
    logger = logging.getLogger("enseada.x")
    count = 10_000
    read: list[str] = []
    with pipe(blocking=blocking) as (source, sink):
        reader = threading.Thread(target=lambda: read.extend(source))
        with logs.configure("json", "info", sink):
            for number in range(count):
                logger.info("%d", number)
            reader.start()
            for handler in logging.getLogger(logs.ROOT).handlers:
                handler.flush()
            logger.info("%d", count)
        sink.close()
        reader.join()
    expected = 0
    told = 0
    for line in map(json.loads, read):
        if line["logger"] == "enseada.logs":
            told += 1
            assert line["level"] == "warning"
            expected += int(line["message"].split()[0])
        else:
            assert line["message"] == str(expected)
            expected += 1
    assert expected == count + 1
    assert told >= 1
    assert len(read) < count


def test_all_that_fits_is_written_in_order_before_the_end() -> None:
    stream = io.StringIO()
    with logs.configure("json", "info", stream):
        for number in range(5000):
            logging.getLogger("enseada.x").info("%d", number)
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == [*map(str, range(5000))]
    assert not writers()


def test_the_end_waits_for_a_reader_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FLUSH_TIMEOUT", 0.05)
    with pipe() as (source, sink):
        with logs.configure("json", "info", sink):
            logging.getLogger("enseada.x").info("x" * 1_000_000)
        [stuck] = writers()
        assert stuck.daemon
        assert len(source.readline()) > 1_000_000
        stuck.join()


@pytest.mark.parametrize("how", ["closed", "unread"])
def test_a_stream_that_fails_is_nobodys_failure(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pipe() as (source, sink), logs.configure("json", "info", sink):
        (sink if how == "closed" else source).close()
        logging.getLogger("enseada.x").info("hello")
    assert not writers()
    assert capsys.readouterr().err == ""


def test_what_was_logged_is_written_when_flushed() -> None:
    stream = io.StringIO()
    with logs.configure("json", "info", stream):
        logging.getLogger("enseada.x").info("hello")
        for handler in logging.getLogger(logs.ROOT).handlers:
            handler.flush()
        assert "hello" in stream.getvalue()


def test_characters_that_the_stream_has_not() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "w", encoding="ascii") as sink:
        with logs.configure("text", "info", sink):
            logging.getLogger("enseada.x").info("caf\xe9")
        assert source.readline().endswith(b"caf\\xe9\n")


# -- several processes

WRITER = """
import logging, sys
from enseada import logs

size, turn, worker = map(int, sys.argv[1:])
with logs.configure("json", "info", sys.stderr, turn=turn, worker=worker):
    for number in range(20):
        logging.getLogger("enseada.x").info("%d %s", number, "x" * size)
        for handler in logging.getLogger(logs.ROOT).handlers:
            handler.flush()
"""


@pytest.mark.parametrize("size", [10, 100_000])
def test_lines_of_several_processes_stay_whole(size: int) -> None:
    """Also where one is longer than a pipe holds, so that its writer sleeps in the midst of it."""
    turn = logs.make_turn()
    reading, writing = os.pipe()
    with open(reading) as source:
        children = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WRITER, str(size), str(turn), str(worker)],
                stderr=writing,
                pass_fds=[turn],
            )
            for worker in range(3)
        ]
        os.close(writing)
        lines = [json.loads(line) for line in source]
    os.close(turn)
    assert [child.wait() for child in children] == [0] * 3
    for worker in range(3):
        said = [line["message"].partition(" ") for line in lines if line["worker"] == worker]
        assert [(int(number), len(text)) for number, _, text in said] == [(number, size) for number in range(20)]


def test_who_has_the_turn_and_dies_gives_it_back() -> None:
    """A reader that takes nothing keeps one process in its write, and another waiting for it."""
    turn = logs.make_turn()
    with pipe() as (source, sink):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, "200000", str(turn), "1"], stderr=sink, pass_fds=[turn]
        )
        assert source.read(1000)  # it is in the midst of a line, which the pipe does not hold
        with logs.configure("json", "info", sink, turn=turn, worker=2):
            logging.getLogger("enseada.x").info("hello")
            child.kill()
            child.wait()
            read: list[str] = []
            reader = threading.Thread(target=lambda: read.extend(source))
            reader.start()
        sink.close()
        reader.join()
    os.close(turn)
    assert read[-1].endswith("}\n")
    assert '"message":"hello"' in read[-1]

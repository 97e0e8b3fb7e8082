"""`enseada serve` over a socket that whoever started it has bound, as a service manager does."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.enseada.server_process import DEADLINE, command, environment, refusal

if TYPE_CHECKING:
    from pathlib import Path


def ask(port: int) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as client:
        client.request("GET", "/-/live")
        return client.getresponse().status


def refused(data: Path, number: int, workers: str, *handed_in: int) -> str:
    """What is said by a server that is to listen on a descriptor, and cannot start."""
    done = refusal(data, "--listen", f"fd:{number}", "--workers", workers, handed_in=handed_in)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_socket_that_is_handed_in_outlives_who_serves_it(workers: str, tmp_path: Path) -> None:
    """Its clients wait while nobody serves: the next one that starts takes them."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        flags = ("--listen", f"fd:{given.fileno()}", "--workers", workers)
        for _ in range(2):
            waiting = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
            waiting.sendall(b"GET /-/live HTTP/1.1\r\nHost: x\r\n\r\n")
            process = subprocess.Popen(
                command(tmp_path / "data", *flags),
                pass_fds=[given.fileno()],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            try:
                assert waiting.recv(4096).startswith(b"HTTP/1.1 200 ")
                waiting.close()
                assert [ask(port) for _ in range(20)] == [200] * 20
                assert process.stdout is not None
                assert f"listening on http://127.0.0.1:{port}\n" in process.stdout  # once all workers serve
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=DEADLINE)
                assert process.returncode == 0
            finally:
                process.kill()
                process.wait()


@pytest.mark.parametrize("number", range(3, 9))
def test_what_a_server_has_open_itself_is_not_taken_for_what_was_handed_in(number: int, tmp_path: Path) -> None:
    said = refused(tmp_path / "data", number, "1")  # without a traceback
    assert f"cannot listen on fd:{number}: " in said


def test_what_is_not_handed_in_is_told_in_a_sentence(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        for number, why in ((read, "it is no socket"), (987, "nothing is open under that number")):
            assert f"cannot listen on fd:{number}: {why}" in refused(tmp_path / "data", number, "2", read)
    finally:
        os.close(read)
        os.close(write)

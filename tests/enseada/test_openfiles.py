"""How many connections there are files for, and the first three files.

That the limit is raised is seen on a process, in test_process.py.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from enseada.openfiles import FILES_A_CONNECTION, RESERVED_FILES, connection_limit
from tests.enseada.server_process import DEADLINE, TWO, has_open, starting, wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("files", "wanted", "possible"),
    [
        (1024, 4096, (1024 - RESERVED_FILES) // FILES_A_CONNECTION),
        (1024, 100, 100),
        (1 << 20, 4096, 4096),
        (resource.RLIM_INFINITY, 4096, 4096),
        (RESERVED_FILES, 4096, 1),
    ],
)
def test_connections_are_no_more_than_there_are_files_for(
    files: int, wanted: int, possible: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connection_limit(wanted) == possible


FILES = """
import json, os, sys
from enseada.openfiles import open_standard_files

open_standard_files()
files = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(3) if os.get_inheritable(fd)}
sys.stderr.write(json.dumps([files, os.open(os.devnull, os.O_RDONLY)]))
"""


@pytest.mark.parametrize("closed", [[], [0], [1], [0, 1]])
def test_nothing_else_gets_the_number_of_a_standard_file(closed: list[int]) -> None:
    redirections = " ".join(["<&-", ">&-"][fd] for fd in closed)
    line = f'exec "$@" {redirections}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, "-c", FILES], capture_output=True, text=True, check=True
    )
    files, following = json.loads(done.stderr)
    assert sorted(files) == ["0", "1", "2"]
    assert all((files[str(fd)] == "/dev/null") for fd in closed)
    assert following > 2


def live(path: Path) -> bytes:
    """What is answered at a unix socket; nothing while nobody listens."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(DEADLINE)
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return b""
        client.sendall(b"GET /-/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.recv(65536)


ALL_CLOSED = "exec <&- >&- 2>&-"


def test_workers_get_what_they_are_given_though_no_standard_file_is_open(tmp_path: Path) -> None:
    """And nothing else is a standard file to anybody."""
    data, path = tmp_path / "data", tmp_path / "socket"
    with starting(data, *TWO, "--listen", f"unix:{path}", before=ALL_CLOSED) as server:
        assert wait_until(lambda: live(path)).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: len(server.workers()) == 2)
        for pid in server.family():
            assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
            assert has_open(pid, data / "lock")
        assert server.end() == 0


def test_one_process_serves_though_no_standard_file_is_open(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    flags = ("--workers", "1", "--listen", f"unix:{path}")
    with starting(tmp_path / "data", *flags, before=ALL_CLOSED) as server:
        assert wait_until(lambda: live(path)).startswith(b"HTTP/1.1 200 ")
        standard = [os.readlink(f"/proc/{server.process.pid}/fd/{fd}") for fd in range(3)]
        assert standard == ["/dev/null"] * 3
        assert server.end() == 0

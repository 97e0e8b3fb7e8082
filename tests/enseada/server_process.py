"""`enseada serve` as processes: how tests start it, ask it, look at it from outside, and leave nothing of it behind.

One rule: nothing is waited for by time. A process is waited for by its descriptor, everything else by asking again.
"""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MIB = 1024 * 1024
DEADLINE = 30.0
SOON = 8.0
"""Seconds for what has to happen at once."""
T = TypeVar("T")
TWO = ("--workers", "2")
"""Where a test counts on it. All others run with what the machine gives."""
MARK = "SERVER_UNDER_TEST"
"""A variable by which all processes of one server are known, whoever is their parent."""


@dataclass
class Server:
    """A running `enseada serve`."""

    process: subprocess.Popen[str]
    log: Path
    mark: str
    port: int = 0
    said: str = ""

    def wait_for_announcement(self) -> None:
        """Wait until it has said where it listens."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "docker push" in line:
                break
        prefix = "listening on http://127.0.0.1:"
        ports = [int(line.rpartition(":")[2]) for line in self.said.splitlines() if line.startswith(prefix)]
        assert len(ports) == 1, (self.said, self.log.read_text())
        self.port = ports[0]

    def logged(self, text: str) -> bool:
        """Whether a line of the log holds it."""
        return text in self.log.read_text()

    def request(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request on a connection of its own, with whatever worker gets it."""
        with self.connected() as connection:
            return connection.request(method, target, body, **headers)

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection to whatever worker gets it."""
        connection = Connection(self)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def connected_to_each(self) -> Iterator[dict[int, Connection]]:
        """A connection to every process that serves, by its id."""
        connections: dict[int, Connection] = {}
        wanted = set(self.workers()) or {self.process.pid}
        try:
            for _ in range(1000):  # which one gets it is a hash of the client's port
                connection = Connection(self)
                worker = connection.worker()
                if worker in connections:
                    connection.close()
                connections.setdefault(worker, connection)
                if connections.keys() == wanted:
                    break
            assert connections.keys() == wanted
            yield connections
        finally:
            for connection in connections.values():
                connection.close()

    def begin(self, name: str = "team/app") -> str:
        """POST an upload; return its location."""
        status, headers, _ = self.request("POST", f"/v2/{name}/blobs/uploads/", b"")
        assert status == 202
        return headers["Location"]

    def offset(self, location: str) -> int:
        """How many bytes of an upload GET reports."""
        with self.connected() as connection:
            return connection.offset(location)

    def workers(self) -> list[int]:
        """The ids of the processes that the first one has started and not seen the end of, oldest first."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def family(self) -> list[int]:
        """The ids of all processes of this server that still run, orphans among them."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has gone meanwhile, or is somebody else's
                if f"{MARK}={self.mark}".encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the process that was started; its exit code."""
        self.process.send_signal(sign)
        return self.process.wait(DEADLINE)

    def kill(self) -> None:
        """Kill all processes, and wait until they are gone."""
        self.process.kill()  # first: it would start others
        self.process.wait(DEADLINE)
        family = self.family()
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for_ends(family)


class Connection:
    """One client's connection, that goes on after a request."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)

    def close(self) -> None:
        self._client.close()

    def request(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """What is answered."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self._client.request(method, target, body, named)
        with self._client.getresponse() as response:
            return response.status, response.headers, response.read()

    def offset(self, location: str) -> int:
        """How many bytes of an upload GET reports."""
        status, headers, _ = self.request("GET", location)
        assert status == 204
        last = int(headers["Range"].removeprefix("0-"))
        return last + 1 if last else 0

    def worker(self) -> int:
        """The id of the process that serves it."""
        assert self.request("GET", "/-/live")[0] == 200
        assert isinstance(self._client.sock, socket.socket)
        worker = served_by(self._server, self._client.sock)
        assert worker is not None
        return worker


def served_by(server: Server, client: socket.socket) -> int | None:
    """The id of the process that has accepted a client; None: nobody has yet."""
    ours = f":{client.getsockname()[1]:04X}"
    inode = next((each.inode for each in connections_of(server) if each.client.endswith(ours)), "0")
    for pid in server.family() if inode != "0" else ():
        with suppress(OSError):
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if os.readlink(path) == f"socket:[{inode}]":
                        return pid
    return None


@dataclass(frozen=True)
class Established:
    """A connection at the server's end, as the system sees it."""

    client: str
    inode: str
    """0: no process has accepted it yet."""


def connections_of(server: Server) -> list[Established]:
    """All that are established."""
    port = f":{server.port:04X}"
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return [Established(each[2], each[9]) for each in fields if each[1].endswith(port) and each[3] == "01"]


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    with suppress(FileNotFoundError), os.scandir(f"/proc/{pid}/fd") as files:
        return any(os.readlink(each.path) == str(path) for each in files)
    return False


def wait_for_ends(pids: Iterable[int]) -> None:
    """Wait until these processes, whoever's children they are, have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                assert select.select([fd], [], [], DEADLINE)[0], f"{pid} does not end"
            finally:
                os.close(fd)


def wait_until(ask: Callable[[], T]) -> T:
    """Ask until there is an answer that counts, and return it."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := ask()):
        assert time.monotonic() < deadline
    return answer


def command(data: Path, *flags: str, tuned: str = "") -> list[str]:
    """``tuned``: statements that set constants of `enseada.supervisor`, before it begins."""
    program = ["-c", f"from enseada import cli, supervisor; {tuned}; cli.main()"] if tuned else ["-m", "enseada"]
    cheap = ["--argon2-memory", "8MiB", "--argon2-time", "1"]
    return [sys.executable, *program, "serve", "--data", str(data), "--listen", "127.0.0.1:0", *cheap, *flags]


def environment(**more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ENSEADA_")}
    return clean | more


def tune_workers(folder: Path, statements: str) -> dict[str, str]:
    """Variables of a server whose workers begin with ``statements``. ``folder``: for what has them do so."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(f"import sys\nif 'enseada.worker' in sys.orig_argv: {statements}\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextmanager
def starting(
    data: Path,
    *flags: str,
    stderr: TextIO | None = None,
    before: str = ":",
    tuned: str = "",
    tuned_workers: str = "",
    **variables: str,
) -> Iterator[Server]:
    """A server that may not listen yet, of which nothing is left at the end. Its log is a file beside ``data``.

    It leads a process group of its own. ``before``: what a shell does before it becomes the server. ``tuned``: see
    `command`. ``tuned_workers``: statements, on one line, with which its workers begin.
    """
    mark = uuid.uuid4().hex
    if tuned_workers:
        variables |= tune_workers(data.parent / "tuned", tuned_workers)
    with (data.parent / "log").open("a") as log:
        process = subprocess.Popen(
            ["sh", "-c", f'{before} && exec "$@"', "sh", *command(data, *flags, tuned=tuned)],
            stdout=subprocess.PIPE,
            stderr=stderr or log,
            text=True,
            env=environment(**variables) | {MARK: mark},
            start_new_session=True,
        )
    server = Server(process, data.parent / "log", mark)
    try:
        yield server
        if process.returncode is not None and process.returncode >= 0:
            assert server.family() == []  # it has waited for all that it started
    finally:
        server.kill()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def serving(
    data: Path,
    *flags: str,
    stderr: TextIO | None = None,
    before: str = ":",
    tuned: str = "",
    tuned_workers: str = "",
    **variables: str,
) -> Iterator[Server]:
    """As `starting`, once it listens, on a free port."""
    with starting(
        data, *flags, stderr=stderr, before=before, tuned=tuned, tuned_workers=tuned_workers, **variables
    ) as server:
        server.wait_for_announcement()
        yield server


def send_part(server: Server, location: str, content: bytes, length: int | None) -> socket.socket:
    """Begin a PATCH of ``length`` bytes (None: chunked), send ``content`` of it, and leave it hanging."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    client.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
    if length is None:
        for start in range(0, len(content), MIB):
            piece = content[start : start + MIB]
            client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    else:
        client.sendall(content)
    return client


def wait_for_offset(server: Server, location: str, least: int) -> int:
    deadline = time.monotonic() + DEADLINE
    while (offset := server.offset(location)) < least:
        assert time.monotonic() < deadline, f"{offset} of {least} bytes were saved"
    return offset


def wait_for_received(folder: Path, size: int) -> None:
    """Wait until the server has written so many bytes of the one upload there is."""
    blobs = folder / "data" / "blobs"
    wait_until(lambda: any(path.stat().st_size >= size for path in blobs.rglob("*") if path.is_file()))


def wait_for_refusal(port: int) -> None:
    """Wait until nobody listens at the port any more."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()
        except ConnectionError:
            return
        assert time.monotonic() < deadline


def refusal(data: Path, *flags: str, handed_in: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """Run `enseada serve`, which has the descriptors ``handed_in``, where it cannot start."""
    done = subprocess.run(
        command(data, *flags),
        pass_fds=handed_in,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "listening" not in done.stdout
    return done


def refused(data: Path, *flags: str) -> tuple[int, str]:
    """As `refusal`: its exit code and what it says about it."""
    done = refusal(data, *flags)
    return done.returncode, done.stderr

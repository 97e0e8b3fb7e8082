"""What the client tests stand on: a registry in a process of its own, and shells in which clients run.

Its one rule: a test asserts on what came out of a real program or off the wire, and never on our own objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, from which the registry under test is started."""
CACHE = Path(
    os.environ.get("ENSEADA_TEST_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enseada-tests"
)
"""The folder that tests/clients/install fills."""
PATH = os.pathsep.join([str(CACHE / "bin"), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

USER = "admin"
PASSWORD = "correct horse battery staple"
WRONG_PASSWORD = "incorrect horse"

START_TIMEOUT = 30.0
"""Seconds in which a server must be ready."""
STOP_TIMEOUT = 45.0
"""Seconds in which a server must end after SIGTERM; more than `enseada serve` grants requests under way."""
RUN_TIMEOUT = 180.0
"""Seconds that one call of a client may take on a slow machine."""

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


def sha256(content: bytes) -> str:
    """The digest of ``content`` as OCI writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


# --- what is here ---------------------------------------------------------------------------------------------------


def why_missing(program: str) -> str:
    """Why tests/clients/install could not put ``program`` in, as far as it said so."""
    with contextlib.suppress(OSError):
        for line in (CACHE / "missing").read_text().splitlines():
            name, _, reason = line.partition("\t")
            if name == program:
                return reason
    return "tests/clients/install has not put it in"


def need(*programs: str) -> None:
    """Skip the test, and say why, where one of ``programs`` is not here."""
    for program in programs:
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"{program} is not here: {why_missing(program)}")


def need_root(what: str) -> None:
    """Skip the test where ``what`` cannot work, because we are not root."""
    if os.geteuid() != 0:
        pytest.skip(f"{what} needs root")


# --- clients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended and what it wrote."""

    args: Sequence[str]
    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """What it wrote to its standard output, without the white space around it."""
        return self.out.decode(errors="replace").strip()

    @property
    def said(self) -> str:
        """All that it wrote, to both streams."""
        return (self.out + b"\n" + self.err).decode(errors="replace").strip()

    @property
    def json(self) -> Any:
        """Its standard output, parsed."""
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"$ {' '.join(self.args)}\n(exit code {self.code})\n{self.said}"


@dataclass(frozen=True, slots=True)
class Shell:
    """Where clients run: with a home of their own, so that no test sees what another has logged in to."""

    home: Path
    env: Mapping[str, str]

    @classmethod
    def at(cls, home: Path, **more: str) -> Shell:
        """Make the folders under ``home``. ``more`` goes into the environment."""
        env = {name: value for name, value in os.environ.items() if name in KEPT_VARIABLES}
        env |= {
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            "HOME": str(home),
            "DOCKER_CONFIG": str(home / ".docker"),
            "REGISTRY_AUTH_FILE": str(home / "auth.json"),
        }
        for name in (
            "XDG_CONFIG_HOME",
            "XDG_CACHE_HOME",
            "XDG_DATA_HOME",
            "XDG_STATE_HOME",
            "XDG_RUNTIME_DIR",
            "TMPDIR",
        ):
            env[name] = str(home / name.lower())
        for name in (
            "DOCKER_CONFIG",
            "XDG_CONFIG_HOME",
            "XDG_CACHE_HOME",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
            "TMPDIR",
        ):
            Path(env[name]).mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(home, env | more)

    def ends(self, *args: str | Path, input: bytes = b"", timeout: float = RUN_TIMEOUT) -> Result:
        """Run a program to its end, whatever that is, for at most ``timeout`` seconds.

        Past that its whole process group is killed and TimeoutExpired raised.
        """
        command = [str(arg) for arg in args]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self.env),
            cwd=self.home,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        return Result(command, process.returncode, out, err)

    def run(self, *args: str | Path, input: bytes = b"", timeout: float = RUN_TIMEOUT) -> Result:
        """Run a program that must succeed."""
        result = self.ends(*args, input=input, timeout=timeout)
        assert result.code == 0, str(result)
        return result

    def fails(self, *args: str | Path, input: bytes = b"", timeout: float = RUN_TIMEOUT) -> Result:
        """Run a program that must fail."""
        result = self.ends(*args, input=input, timeout=timeout)
        assert result.code != 0, f"it should have failed:\n{result}"
        return result


WORKERS = len(os.sched_getaffinity(0))
"""How many processes `enseada serve` starts where nothing else is asked for."""
REFUSALS = ("unauthorized", "401", "authentication required", "invalid username", "credential not found")
"""How clients put it that a login is wrong or lacking."""
KEPT_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "LANG", "TERM", "NO_COLOR")


def assert_refused(result: Result) -> None:
    """Assert that a client failed *because* of who asked, or because nobody is logged in, and said so."""
    said = result.said.lower()
    assert any(word in said for word in REFUSALS), str(result)


# --- servers --------------------------------------------------------------------------------------------------------


class Log:
    """A file that a thread fills with what a server writes, so that one can wait for a line without asking again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._ended = False
        path.touch()

    def fill(self, stream: IO[bytes]) -> None:
        """Copy ``stream`` into the file, line by line, to its end."""
        with self.path.open("ab", buffering=0) as sink:
            for line in stream:
                with self._changed:
                    sink.write(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, text: bytes, timeout: float) -> bytes:
        """The first line that holds ``text``, as soon as it is whole; at most ``timeout`` seconds.

        Raises AssertionError with the whole log where none comes, or the writer ended without it.
        """
        line = b""

        def is_here() -> bool:
            nonlocal line
            line = next((each for each in self.path.read_bytes().splitlines() if text in each), b"")
            return bool(line) or self._ended

        with self._changed:
            self._changed.wait_for(is_here, timeout)
        assert line, f"no {text!r} in the log after {timeout} s:\n{self.path.read_text(errors='replace')}"
        return line


@dataclass(slots=True)
class Served:
    """A registry that runs: where, who may, and eyes on it that are no client's."""

    host: str
    """``127.0.0.1:PORT``, as image names begin."""
    user: str | None
    password: str | None
    log: Log | None
    workers: int = 1
    """Processes that write to the log."""
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        auth = (self.user, self.password or "") if self.user is not None else None
        self.http = httpx.Client(base_url=f"http://{self.host}", auth=auth, timeout=60.0, trust_env=False)

    def name(self, image: str) -> str:
        """``image`` as a client is told: with the registry before it."""
        return f"{self.host}/{image}"

    def manifest(self, image: str, reference: str) -> httpx.Response:
        """A manifest as it is served now; its digest is checked."""
        response = self.http.get(f"/v2/{image}/manifests/{reference}", headers={"Accept": ", ".join(MANIFEST_TYPES)})
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        assert response.headers["Docker-Content-Digest"] == sha256(response.content)
        return response

    def digest(self, image: str, reference: str) -> str:
        """The digest of what ``reference`` names now."""
        return sha256(self.manifest(image, reference).content)

    def blob(self, image: str, digest: str) -> bytes:
        """A blob's bytes; its digest is checked."""
        response = self.http.get(f"/v2/{image}/blobs/{digest}", follow_redirects=True)
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        assert sha256(response.content) == digest
        return response.content

    def status(self, path: str) -> int:
        """The status of a GET under ``/v2/``."""
        return self.http.get(f"/v2/{path}", headers={"Accept": ", ".join(MANIFEST_TYPES)}).status_code

    def tags(self, image: str) -> list[str]:
        """The tags of ``image``; none where it does not exist."""
        response = self.http.get(f"/v2/{image}/tags/list")
        if response.status_code == 404:
            return []
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        tags: list[str] = response.json()["tags"] or []
        return tags

    def log_size(self) -> int:
        """How far the log has grown, in bytes."""
        return self.log.path.stat().st_size if self.log is not None else 0


@contextlib.contextmanager
def serving(
    folder: Path,
    *options: str,
    login: bool = True,
    program: Sequence[str | Path] = (sys.executable, "-m", "enseada"),
    cwd: Path = ROOT,
) -> Iterator[Served]:
    """Run ``enseada serve`` on a free port with fresh data in ``folder``, and end it as an operator would.

    Asserts that it says where it listens, and that SIGTERM ends it with exit code 0. With ``login`` the answer carries
    the administrator's name and password, else nothing. It is the checkout's unless ``program`` and ``cwd`` say other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder / "log")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ENSEADA_")}
    env |= {"ENSEADA_ADMIN_PASSWORD": PASSWORD, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    command = [*program, "serve", "--data", folder / "data", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*map(str, command), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=log.fill, args=(process.stdout,))
        reader.start()
        try:
            line = log.wait_for(b"listening on http://", START_TIMEOUT).decode()
            host = line.removeprefix("listening on http://").rstrip("/")
            served = Served(host, USER if login else None, PASSWORD if login else None, log, WORKERS)
            with served.http:
                yield served
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_TIMEOUT)
            assert code == 0, f"SIGTERM ended it with exit code {code}:\n{log.path.read_text(errors='replace')}"
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            reader.join()


@contextlib.contextmanager
def docker_engine(folder: Path) -> Iterator[str]:
    """Run a Docker engine of our own, with its sockets and images under ``folder``; the answer is its DOCKER_HOST.

    ``folder`` must have a short name: a unix socket's may have 107 bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = folder / "d.sock"
    command = ["dockerd", "-H", f"unix://{address}", "--data-root", folder / "data", "--exec-root", folder / "exec"]
    command += ["--pidfile", folder / "pid", "--storage-driver", "vfs"]
    # No bridge, no firewall rules: it must not touch the machine's network, and run where there is no right to.
    command += ["--bridge=none", "--iptables=false", "--ip-masq=false"]
    with (
        (folder / "log").open("ab") as sink,
        subprocess.Popen(
            [str(arg) for arg in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=dict(Shell.at(folder / "home").env),
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait_for_socket(address, process, folder / "log")
            yield f"unix://{address}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_socket(address: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody answers a Docker engine's ping on a unix socket."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(max(0.1, deadline - time.monotonic()))
            peer.connect(str(address))
            peer.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            if b" 200 " in peer.recv(4096):
                return
        try:
            process.wait(0.05)  # as a pause between two tries that ends early if there is nobody to wait for
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"dockerd is not ready:\n{log.read_text(errors='replace')[-5000:]}")

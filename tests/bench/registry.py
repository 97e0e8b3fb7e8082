"""A tiny registry in this process, which remembers what it was sent; faults to order."""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Registry:
    """What it holds, what came, and how it is to misbehave."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)
    most_at_once: int = 0
    """PATCHes that were under way at one time."""
    corrupt: bool = False
    """A download has another first byte."""
    answer_to_patch: int = 202
    chunked: bool = False
    """An answer to a GET tells no length."""
    on_request: Callable[[Seen], None] = lambda _: None
    """Called when a request has come, before it is answered."""
    patches: int = 0
    uploads: dict[str, bytes] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for_manifests(self, count: int) -> None:
        """Until so many were pushed."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.manifests) >= count, DEADLINE)


class Handler(BaseHTTPRequestHandler):
    """Uploads by POST, PATCH and PUT; GET and HEAD of what is there."""

    protocol_version = "HTTP/1.1"
    registry: Registry
    lock: threading.Lock

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Also HEAD."""
        self._see()
        name = self.path.rpartition("/")[2]
        manifests = {f"sha256:{hashlib.sha256(each).hexdigest()}": each for each in self.registry.manifests.values()}
        held = manifests | self.registry.manifests | self.registry.blobs
        content = b"{}" if self.path == "/v2/" else held.get(name)
        if content is None:
            self._answer(404, b"none")
            return
        if self.registry.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        self._answer(200, content)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Begin an upload."""
        self._see()
        self._body()
        with self.lock:
            name = f"u{len(self.registry.uploads)}"
            self.registry.uploads[name] = b""
        # Absolute and with a query, as some registries answer.
        self._answer(202, location=f"http://somewhere.test/v2/x/blobs/uploads/{name}?state=1")

    def do_PATCH(self) -> None:
        """Take the bytes."""
        self._see()
        with self.lock:
            self.registry.patches += 1
            self.registry.most_at_once = max(self.registry.most_at_once, self.registry.patches)
        content = self._body()
        with self.lock:
            self.registry.patches -= 1
        name = urlsplit(self.path).path.rpartition("/")[2]
        self.registry.uploads[name] += content
        self._answer(self.registry.answer_to_patch, location=f"/v2/x/blobs/uploads/{name}?state=2")

    def do_PUT(self) -> None:
        """End an upload, or store a manifest."""
        self._see()
        content = self._body()
        parts = urlsplit(self.path)
        name = parts.path.rpartition("/")[2]
        if "/manifests/" in parts.path:
            with self.registry.changed:
                self.registry.manifests[name] = content
                self.registry.changed.notify_all()
            self._answer(201)
            return
        query = parse_qs(parts.query)
        assert query["state"] == ["2"]
        stored = self.registry.uploads[name]
        digest = f"sha256:{hashlib.sha256(stored).hexdigest()}"
        if query["digest"] != [digest]:
            self._answer(400)
            return
        self.registry.blobs[digest] = stored
        self._answer(201, digest=digest)

    def _see(self) -> None:
        seen = Seen(self.command, self.path, dict(self.headers))
        with self.lock:
            self.registry.requests.append(seen)
            self.registry.on_request(seen)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, content: bytes = b"", *, location: str = "", digest: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        if self.registry.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """Clients that go away are no errors."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing."""


@contextmanager
def unread(listener: socket.socket) -> Iterator[int]:
    """A connection to ``listener`` with all that the kernel takes, and how many bytes that were; nobody reads them."""
    with socket.create_connection(listener.getsockname()) as one:
        one.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while True:
                sent += one.send(bytes(65536))
        yield sent


@contextmanager
def serving() -> Iterator[Registry]:
    """The registry, in threads, while the block runs."""
    registry = Registry()
    handler = type("BoundHandler", (Handler,), {"registry": registry, "lock": threading.Lock()})
    with Server(("127.0.0.1", 0), handler) as server:
        registry.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()

"""Several workers over one data folder: whoever has answered, all others know it, and any goes on where one stopped."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import select
import signal
import socket
import threading
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import pytest
import trio
from argon2 import PasswordHasher

from enseada.requestbody import SHARED_BYTES
from enseada.storage.documents.base import Document
from enseada.storage.documents.sqlite import SQLiteStore
from tests.enseada.server_process import (
    DEADLINE,
    MIB,
    TWO,
    Connection,
    Server,
    connections_of,
    served_by,
    serving,
    wait_for_received,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "team/app"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with three workers, for tests that leave them alone."""
    data = tmp_path_factory.mktemp("three") / "data"
    with serving(data, "--anonymous", "push", "--workers", "3", ENSEADA_ADMIN_PASSWORD="0") as server:
        yield server
        assert server.end() == 0


@pytest.fixture
def connections(server: Server) -> Iterator[dict[int, Connection]]:
    """A connection to each of the three."""
    with server.connected_to_each() as connections:
        assert len(connections) == 3
        yield connections


def alternately(connections: dict[int, Connection]) -> Iterator[Connection]:
    """One worker after the other, for ever."""
    while True:
        yield from connections.values()


def part_sent_to(server: Server, worker: int, location: str, content: bytes, length: int) -> socket.socket:
    """Begin a PATCH of ``length`` bytes at that worker, send ``content`` of it, and leave it hanging."""
    for _ in range(1000):  # whose connection it becomes is a hash of the client's port
        client = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)
        if wait_until(lambda: served_by(server, client)) == worker:  # noqa: B023
            client.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
            client.sendall(content)
            return client
        client.close()
    raise AssertionError("no connection to that worker")


# -- uploads


def test_an_upload_goes_on_at_any_worker(connections: dict[int, Connection]) -> None:
    """Every one of its requests is answered by another process than the one before."""
    content = random.Random(5).randbytes(900_007)
    pieces = [content[start : start + 70_000] for start in range(0, len(content), 70_000)]
    turns = alternately(connections)
    status, headers, _ = next(turns).request("POST", f"/v2/{NAME}/blobs/uploads/", b"")
    assert status == 202
    location = headers["Location"]
    offset = 0
    for piece in pieces[:-1]:
        span = f"{offset}-{offset + len(piece) - 1}"
        status, headers, _ = next(turns).request("PATCH", location, piece, Content_Range=span)
        assert status == 202
        offset += len(piece)
        for connection in connections.values():
            assert connection.offset(location) == offset
    digest = digest_of(content)
    status, _, body = next(turns).request("PUT", f"{location}?digest={digest}", pieces[-1])
    assert status == 201, body
    for connection in connections.values():
        assert connection.request("GET", f"/v2/{NAME}/blobs/{digest}")[2] == content
        assert connection.request("GET", location)[0] == 404


BUSY = "another request is writing to this upload"


def begun(server: Server, content: bytes) -> str:
    """The location of an upload that has ``content``, and so is known to all workers."""
    location = server.begin()
    assert server.request("PATCH", location, content)[0] == 202
    return location


def test_of_two_workers_only_one_writes_to_an_upload(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "data", *TWO, "--anonymous", "push", "--lease-time", "0.3") as server,
        server.connected_to_each() as connections,
    ):
        first, second = connections
        location = begun(server, b"12")
        with closing(part_sent_to(server, first, location, b"34", 3)) as client:
            wait_for_received(tmp_path, 4)
            status, headers, body = connections[second].request("PATCH", location, b"no")
            assert (status, json.loads(body)["errors"][0]["message"]) == (503, BUSY)
            assert int(headers["Retry-After"]) >= 1
            client.sendall(b"5")
            assert client.recv(65536).startswith(b"HTTP/1.1 202 ")
        assert connections[second].offset(location) == 5
        assert server.end() == 0


def test_who_waits_for_another_workers_upload_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "data", *TWO, "--anonymous", "push") as server,
        server.connected_to_each() as connections,
    ):
        first, second = connections
        location = begun(server, b"12")
        with closing(part_sent_to(server, first, location, b"34", 10)) as client:
            wait_for_received(tmp_path, 4)
            answers: list[tuple[int, str]] = []

            def go_on() -> None:
                status, headers, _ = connections[second].request("PATCH", location, b"56")
                answers.append((status, headers["Range"]))

            thread = threading.Thread(target=go_on)
            thread.start()
            client.shutdown(socket.SHUT_WR)  # it breaks off
            thread.join()
        assert answers == [(202, "0-5")]
        digest = digest_of(b"123456")
        assert connections[first].request("PUT", f"{location}?digest={digest}", b"")[0] == 201
        assert connections[second].request("GET", f"/v2/{NAME}/blobs/{digest}")[2] == b"123456"
        assert server.end() == 0


def test_an_upload_that_two_workers_begin_has_the_bytes_of_one(tmp_path: Path) -> None:
    """Nothing is known of it before the first bytes are saved: so neither knows of the other, and one is told late."""
    with (
        serving(tmp_path / "data", *TWO, "--anonymous", "push") as server,
        server.connected_to_each() as connections,
    ):
        first, second = connections
        location = server.begin()
        with closing(part_sent_to(server, first, location, b"1234", 5)) as client:
            wait_for_received(tmp_path, 4)
            status, headers, _ = connections[second].request("PATCH", location, b"abc")
            assert (status, headers["Range"]) == (202, "0-2")
            client.sendall(b"5")
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: " in answer
        assert connections[first].offset(location) == 3
        digest = digest_of(b"abc")
        assert connections[first].request("PUT", f"{location}?digest={digest}", b"")[0] == 201
        assert connections[second].request("GET", f"/v2/{NAME}/blobs/{digest}")[2] == b"abc"
        assert server.end() == 0
    assert len([path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()]) == 1


def test_a_worker_that_is_killed_takes_nobody_with_it(tmp_path: Path) -> None:
    """Others are served on, and what it was uploading goes on elsewhere from where it was saved."""
    content = random.Random(6).randbytes(3 * MIB)
    often = ("--save-interval", "0.1", "--save-idle-bytes", "1")
    with (
        serving(tmp_path / "data", *TWO, "--anonymous", "push", *often) as server,
        server.connected_to_each() as connections,
    ):
        victim, other = connections
        location = server.begin()
        stop = threading.Event()
        statuses: list[int] = []

        def load() -> None:
            connection = connections[other]
            while not stop.is_set():
                statuses.append(connection.request("GET", location)[0])

        with closing(part_sent_to(server, victim, location, content[: 2 * MIB + 5], len(content))) as client:
            wait_until(lambda: server.offset(location) == 2 * MIB + 5)
            thread = threading.Thread(target=load)
            thread.start()
            os.kill(victim, signal.SIGKILL)
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
        status, headers, _ = server.request("PATCH", location, content[2 * MIB + 5 :])
        assert (status, headers["Range"]) == (202, f"0-{len(content) - 1}")
        wait_until(lambda: server.logged('serves"'))
        stop.set()
        thread.join()
        assert set(statuses) == {204}
        with server.connected_to_each() as after:
            assert other in after
            assert victim not in after
            digest = digest_of(content)
            [new] = after.keys() - {other}
            assert after[new].request("PUT", f"{location}?digest={digest}", b"")[0] == 201
            assert after[other].request("GET", f"/v2/{NAME}/blobs/{digest}")[2] == content
        assert server.end() == 0


# -- what was answered by one is known to all


def manifest(number: int) -> bytes:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2}
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [],
            "annotations": {"number": str(number)},
        }
    ).encode()


def test_a_tag_is_moved_for_all(server: Server, connections: dict[int, Connection]) -> None:
    assert server.request("PUT", f"{server.begin()}?digest={digest_of(b'{}')}", b"{}")[0] == 201
    target = f"/v2/{NAME}/manifests/latest"
    for number, writer in zip(range(60), alternately(connections), strict=False):
        assert writer.request("PUT", target, manifest(number), Content_Type=MANIFEST)[0] == 201
        for reader in connections.values():
            status, headers, body = reader.request("GET", target, Accept=MANIFEST)
            assert (status, body) == (200, manifest(number))
            assert headers["Docker-Content-Digest"] == digest_of(manifest(number))
    assert writer.request("DELETE", target)[0] == 202
    for reader in connections.values():
        assert reader.request("GET", target, Accept=MANIFEST)[0] == 404


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()


async def change_password(data: Path, password: str) -> None:
    """Store another password of ``admin``, as a process beside the server."""
    hashed = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(password)
    async with await SQLiteStore.open(data / "documents.sqlite") as documents:
        account = await documents.get("user:admin")
        assert account is not None
        await documents.put(Document(account.id, {**account.data, "password": hashed}, account.rev))


def test_a_token_of_one_is_good_at_all(connections: dict[int, Connection]) -> None:
    for issuer in connections.values():
        _, _, body = issuer.request("GET", "/v2/_token?service=enseada", Authorization=basic("0"))
        bearer = f"Bearer {json.loads(body)['token']}"
        for connection in connections.values():
            assert connection.request("GET", "/v2/", Authorization=bearer)[0] == 200


def test_a_password_is_changed_for_all(server: Server, connections: dict[int, Connection]) -> None:
    """Though each of them remembers which ones were right."""
    for old, new in [("0", "1"), ("1", "2"), ("2", "0")]:
        for connection in connections.values():
            assert connection.request("GET", "/v2/", Authorization=basic(old))[0] == 200
            assert connection.request("GET", "/v2/", Authorization=basic(new))[0] == 401
        trio.run(change_password, server.log.parent / "data", new)
        for connection in connections.values():
            assert connection.request("GET", "/v2/", Authorization=basic(old))[0] == 401


# -- what they share


DISK = (
    "import os, sys; from enseada.storage.blobs import localwriter; localwriter.DIRTY_BYTES = 20 << 20; sync = "
    "os.fdatasync; os.fdatasync = lambda fd: (print('to the disk:', os.fstat(fd).st_size, file=sys.stderr), sync(fd))"
)
"""For workers that tell how long a file is whose bytes they wait for, and of which all together may have 20 MiB."""


def test_bytes_that_are_not_on_the_disk_are_limited_for_all_together(tmp_path: Path) -> None:
    """Each worker has half of them."""
    flags = ("--anonymous", "push", "--save-interval", "3600")
    with serving(tmp_path / "data", *TWO, *flags, tuned_workers=DISK) as server:
        assert server.request("PATCH", server.begin(), bytes(16 * MIB))[0] == 202
        log = server.log.read_text().splitlines()
        first, *_ = [int(line.rpartition(" ")[2]) for line in log if line.startswith("to the disk: ")]
        assert 10 * MIB < first <= 10 * MIB + SHARED_BYTES
        assert server.end() == 0


def test_connections_are_limited_for_all_together(tmp_path: Path) -> None:
    """Each worker has half of them, and the next client waits until one has gone."""
    with serving(tmp_path / "data", *TWO, "--set", "limits.connections=4") as server, ExitStack() as stack:
        workers = dict.fromkeys(server.workers(), 0)
        address = ("127.0.0.1", server.port)
        clients = [stack.enter_context(socket.create_connection(address, DEADLINE)) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /-/live HTTP/1.1\r\nHost: x\r\n\r\n")
        while clients:
            answered, _, _ = select.select(clients, [], [], DEADLINE)
            assert answered
            # The system tells of a socket more than once, if others come and go while it tells.
            assert len({each.inode for each in connections_of(server)} - {"0"}) <= 4
            assert answered[0].recv(65536).startswith(b"HTTP/1.1 200 ")
            worker = served_by(server, answered[0])
            assert worker is not None
            workers[worker] += 1
            clients.remove(answered[0])
            answered[0].close()
        assert sum(workers.values()) == 20
        assert server.end() == 0

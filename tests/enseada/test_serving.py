"""`enseada.serve` in a host's trio program: it starts, says where it is, ends when cancelled, and leaves nothing."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import enseada
from enseada.server import close_listeners
from tests.enseada.http_client import Client
from tests.enseada.oci_client import basic, cheap_settings, digest_of
from tests.enseada.pushing import ask, push_and_pull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from enseada.server import AnyListener


@dataclass(frozen=True)
class Residue:
    """What there is in this process that a server could leave behind."""

    tasks: int
    threads: frozenset[threading.Thread]
    files: frozenset[str]

    @classmethod
    def now(cls) -> Residue:
        # Trio keeps threads for whoever wants one next, and ends them when nobody does.
        threads = frozenset(each for each in threading.enumerate() if not each.name.startswith("Trio thread"))
        files = frozenset(f"{each} {_where(each)}" for each in os.listdir("/proc/self/fd"))
        tasks = trio.lowlevel.current_statistics().tasks_living
        return cls(tasks, threads, frozenset(each for each in files if not each.endswith("/fd")))


def _where(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the descriptor that the folder was listed by
        return "/fd"


async def connected(address: str) -> Client:
    host, _, port = address.removeprefix("http://").rpartition(":")
    return Client(await trio.open_tcp_stream(host, int(port)))


@asynccontextmanager
async def client_at(address: str) -> AsyncIterator[Client]:
    client = await connected(address)
    try:
        yield client
    finally:
        await trio.aclose_forcefully(client.stream)


async def until_stored(folder: Path, size: int) -> None:
    """Wait until a blob's file is so large."""
    while not any(file.stat().st_size == size for file in (folder / "data" / "blobs").rglob("*") if file.is_file()):
        await trio.testing.wait_all_tasks_blocked(0.005)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system has no /proc/self/fd")
async def test_it_leaves_nothing_behind_when_cancelled(tmp_path: Path) -> None:
    settings = cheap_settings(data=tmp_path / "data", listen=("127.0.0.1:0", f"unix:{tmp_path}/socket"))
    before = None
    for _ in range(2):  # what the first run loads for good, the second finds there
        async with trio.open_nursery() as nursery:
            started: enseada.Started = await nursery.start(enseada.serve, settings)
            assert [listener.address for listener in started] == started.addresses
            assert len(started) == 2
            async with client_at(started[0].address) as client:
                await push_and_pull(client)
            idle = await connected(started[0].address)
            nursery.cancel_scope.cancel()
        assert await idle.rest() == b""
        await idle.stream.aclose()
        assert not (tmp_path / "socket").exists()
        after = Residue.now()
        assert before in (None, after)
        before = after


async def test_an_upload_under_way_is_saved_when_it_is_cancelled(tmp_path: Path) -> None:
    settings = cheap_settings(data=tmp_path / "data", listen=("127.0.0.1:0",), grace=0.0)
    content = os.urandom(200_000)
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(enseada.serve, settings)
        async with client_at(listener.address) as client:
            location = (await ask(client, "POST", "/v2/app/blobs/uploads/")).headers["location"]
            head = f"PATCH {location} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(content) + 1}\r\n"
            await client.send(f"{head}Authorization: {basic('admin')}\r\n\r\n".encode() + content)
            await until_stored(tmp_path, len(content))
            nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(enseada.serve, settings)
        async with client_at(listener.address) as client:
            assert (await ask(client, "GET", location)).headers["range"] == f"0-{len(content) - 1}"
            assert (await ask(client, "PUT", f"{location}?digest={digest_of(content)}")).status == 201
        nursery.cancel_scope.cancel()


async def test_requests_under_way_have_their_grace_when_it_is_cancelled(tmp_path: Path) -> None:
    settings = cheap_settings(data=tmp_path / "data", listen=("127.0.0.1:0",), grace=60.0)
    content = os.urandom(1000)
    async with trio.open_nursery() as clients, trio.open_nursery() as nursery:
        [listener] = await nursery.start(enseada.serve, settings)
        client = await connected(listener.address)
        location = (await ask(client, "POST", "/v2/app/blobs/uploads/")).headers["location"]
        head = f"PATCH {location} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(content)}\r\n"
        await client.send(f"{head}Authorization: {basic('admin')}\r\n\r\n".encode() + content[:1])
        await until_stored(tmp_path, 1)

        async def finish() -> None:
            await client.send(content[1:])
            assert (await client.answer("PATCH")).status == 202
            await client.stream.aclose()

        nursery.cancel_scope.cancel()
        clients.start_soon(finish)


async def test_a_password_is_made_at_the_first_start_and_told(tmp_path: Path) -> None:
    settings = enseada.Settings(data=tmp_path / "data", listen=("127.0.0.1:0",))
    made = []
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            started: enseada.Started = await nursery.start(enseada.serve, settings)
            made.append(started.admin_password)
            assert started.data == tmp_path / "data"
            nursery.cancel_scope.cancel()
    assert made[0] is not None
    assert made[1] is None


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener whose clients are in this process."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](0)
        self.closed = False

    async def connect(self) -> Client:
        ours, theirs = trio.testing.memory_stream_pair()
        await self._send.send(theirs)
        return Client(ours)

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self.closed = True
        await self._receive.aclose()


async def test_over_memory_streams(tmp_path: Path) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(enseada.serve, cheap_settings(data=tmp_path / "data"), listeners=[listener])
        started: enseada.Started = await nursery.start(serve)
        assert started.addresses == ["-"]
        for name in ("one", "two"):
            client = await listener.connect()
            await push_and_pull(client, name)
            await client.stream.aclose()
        nursery.cancel_scope.cancel()
    assert listener.closed


@pytest.mark.parametrize("listens", [False, True])
async def test_over_a_socket_that_is_handed_in(listens: bool, tmp_path: Path) -> None:
    """Its settings' addresses are not listened on."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    if listens:
        bound.listen()
    address = "http://{}:{}".format(*bound.getsockname())
    settings = cheap_settings(data=tmp_path / "data", listen=("256.256.256.256:1",))
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(enseada.serve, settings, listeners=[bound]))
        assert listener.address == address
        async with client_at(address) as client:
            await push_and_pull(client)
        nursery.cancel_scope.cancel()
    assert bound.fileno() == -1


async def test_what_is_handed_in_is_closed_if_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    memory = MemoryListener()
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    with pytest.raises(enseada.StartError, match="not a folder"):
        await enseada.serve(cheap_settings(data=tmp_path / "data"), listeners=[memory, bound])
    assert memory.closed
    assert bound.fileno() == -1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_is_handed_in_is_closed_if_one_cannot_listen(cancelled: bool, tmp_path: Path) -> None:
    bound, taken, second = (socket.socket() for _ in range(3))
    memories = [MemoryListener(), MemoryListener()]
    bound.bind(("127.0.0.1", 0))
    for each in (taken, second):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("127.0.0.1", taken.getsockname()[1] if each is second else 0))
    taken.listen()
    # The third has the address of one that listens.
    given: list[AnyListener] = [bound, memories[0], second, memories[1]]
    try:
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            with pytest.raises(enseada.StartError, match="handed in: Address already in use"):
                await enseada.serve(cheap_settings(data=tmp_path / "data"), listeners=given)
    finally:
        taken.close()
    assert [each.closed for each in memories] == [True, True]
    assert [each.fileno() for each in (bound, second)] == [-1, -1]


class Stubborn(MemoryListener):
    """Cannot be closed without a complaint."""

    async def aclose(self) -> None:
        self.closed = True
        raise ZeroDivisionError


async def test_one_that_cannot_be_closed_keeps_none_of_the_others_open(tmp_path: Path) -> None:
    bound, free = socket.socket(), MemoryListener()
    bound.bind(("127.0.0.1", 0))
    with pytest.raises(ZeroDivisionError):
        await close_listeners([free, Stubborn(), bound])
    assert (free.closed, bound.fileno()) == (True, -1)
    unbound = socket.socket(socket.AF_UNIX)
    with pytest.raises(enseada.StartError, match="handed in: Invalid argument"):  # and not the complaint
        await enseada.serve(cheap_settings(data=tmp_path / "data"), listeners=[Stubborn(), unbound])
    assert unbound.fileno() == -1


async def test_a_shutdown_is_as_good_as_a_cancellation(tmp_path: Path) -> None:
    shutdown = trio.Event()
    settings = cheap_settings(data=tmp_path / "data", listen=("127.0.0.1:0",))
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(enseada.serve, settings, shutdown=shutdown))
        async with client_at(listener.address) as client:
            await push_and_pull(client)
        shutdown.set()

"""Listeners and the end of a server, over real sockets."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
import trio

from enseada import server as module
from enseada.connection import HEAD_READ
from enseada.http import Headers, Request, Response
from enseada.limits import KIB, MIB, Limits
from enseada.server import Listener, ListenError, open_listeners, serve_http
from enseada.transport import SocketTransport
from tests.enseada.http_client import GET, Client, Truncated, chunked, echo, ignore, post
from tests.enseada.test_transport import Rounds
from tests.nobody import as_nobody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from enseada.exchange import Exchange
    from enseada.http import Handler
    from enseada.transport import Transport


class File:
    """Content that is sent from a file."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.file: int | None = os.open(path, os.O_RDONLY)
        self.start, self.length = start, path.stat().st_size - start

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("it can be sent from the file")

    async def aclose(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None


class Server:
    def __init__(self, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self.shutdown = trio.Event()
        self.over = trio.Event()
        self.exchanges: list[Exchange] = []
        self.scope = trio.CancelScope()
        self.clients: list[Client] = []

    async def connect(self, index: int = 0) -> Client:
        listener = self.listeners[index]
        if listener.path is not None:
            self.clients.append(Client(await trio.open_unix_socket(listener.path)))
        else:
            host, port = listener.socket.getsockname()[:2]
            self.clients.append(Client(await trio.open_tcp_stream(host, port)))
        return self.clients[-1]


@asynccontextmanager
async def serving(
    handler: Handler,
    *addresses: str,
    limits: Limits | None = None,
    grace: float = 10,
    interpose: Callable[[Transport], Transport] | None = None,
) -> AsyncIterator[Server]:
    server = Server(await open_listeners(addresses or ["127.0.0.1:0"]))

    async def run(task_status: trio.TaskStatus[object]) -> None:
        with server.scope:
            await serve_http(
                handler,
                server.listeners,
                limits=limits or Limits(),
                grace=grace,
                shutdown=server.shutdown,
                on_exchange=server.exchanges.append,
                interpose=interpose,
                task_status=task_status,
            )
        server.over.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        try:
            yield server
        finally:
            server.shutdown.set()
            for client in server.clients:
                await trio.aclose_forcefully(client.stream)


async def read_to_end(stream: trio.abc.ReceiveStream) -> None:
    while await stream.receive_some():
        pass


async def test_clients_are_served_on_every_listener(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(echo, "127.0.0.1:0", f"unix:{path}") as server:
        assert server.listeners[0].address.startswith("http://127.0.0.1:")
        assert not server.listeners[0].address.endswith(":0")
        assert server.listeners[1].address == f"http+unix://{path}"
        for index in range(2):
            client = await server.connect(index)
            await client.send(GET + post(b"known") + chunked(b"a", b"b"))
            assert [(await client.answer()).body.partition(b"\n")[2] for _ in range(3)] == [b"", b"known", b"ab"]
            await client.stream.aclose()
    assert [exchange.client for exchange in server.exchanges] == ["127.0.0.1"] * 3 + [None] * 3
    assert not path.exists()


async def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with serving(echo, "[::1]:0") as server:
        assert server.listeners[0].address.startswith("http://[::1]:")
        client = await server.connect()
        await client.send(GET)
        assert (await client.answer()).status == 200
        await client.stream.aclose()


async def test_large_content_both_ways(tmp_path: Path) -> None:
    content = os.urandom(5 * MIB)
    (tmp_path / "file").write_bytes(content)
    received: list[bytes] = []

    files: list[File] = []

    async def handler(request: Request) -> Response:
        received.append(b"".join([bytes(chunk) async for chunk in request.body]))
        files.append(File(tmp_path / "file", 1))
        return Response(200, body=files[-1])

    async with serving(handler) as server:
        for whole in (post(content), chunked(*(content[at : at + 32 * KIB] for at in range(0, 5 * MIB, 32 * KIB)))):
            client = await server.connect()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, whole)
                assert (await client.answer()).body == content[1:]
            await client.stream.aclose()
    assert received == [content, content]
    assert [file.file for file in files] == [None, None]


@pytest.mark.parametrize("what", ["file", "bytes"])
@pytest.mark.parametrize("end", ["gone", "cancelled"])
async def test_an_interrupted_download_is_told_with_what_was_sent(tmp_path: Path, what: str, end: str) -> None:
    size, some = 24 * MIB, 5 * MIB
    (tmp_path / "file").write_bytes(bytes(size))

    async def handler(request: Request) -> Response:
        return Response(200, body=File(tmp_path / "file") if what == "file" else bytes(size))

    async with serving(handler, grace=0) as server:
        client = await server.connect()
        await client.send(GET)
        received = 0
        while received < some:
            received += len(await client.stream.receive_some(some - received))
        if end == "gone":
            await client.stream.aclose()
        else:
            server.shutdown.set()
            await server.over.wait()
    [exchange] = server.exchanges
    assert exchange.status == 200
    assert exchange.error == ("the client has gone" if end == "gone" else "cancelled")
    assert some - 1000 <= exchange.bytes_out < size  # some of what was received was the head


async def test_an_early_answer_arrives_though_the_client_goes_on_sending() -> None:
    """Closing with bytes unread resets the connection, which would destroy the answer on its way."""
    async with serving(ignore) as server:
        client = await server.connect()

        async def send() -> None:
            await client.send(post(bytes(4 * MIB)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (202, "close")
        await client.stream.aclose()


async def test_an_answer_cut_in_the_middle_resets_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """To a client of HTTP/1.0 an orderly end would be the end of the content."""

    async def some() -> AsyncIterator[bytes]:
        yield b"some"
        raise ValueError("broken")

    async def handler(request: Request) -> Response:
        return Response(200, body=some())

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(client.stream)
    assert "broke off" in caplog.text


async def test_a_client_that_resets_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echo) as server:
        for sent in (b"", GET[:9], post(bytes(100_000))[:5000]):
            client = await server.connect()
            await client.send(sent)
            assert isinstance(client.stream, trio.SocketStream)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await client.stream.aclose()  # sends the reset
        client = await server.connect()
        await client.send(GET)
        assert (await client.answer()).status == 200
        await client.stream.aclose()
    assert not caplog.records


# -- everybody's turn


@pytest.mark.parametrize("size", [0, 512, HEAD_READ, 2 * HEAD_READ])
async def test_pipelined_requests_are_served_one_a_turn(size: int) -> None:
    """Of whatever size: those of a whole read are never found in our buffer, but always in the kernel's."""
    count = 50
    turns: list[int] = []
    rounds = Rounds()

    async def handler(request: Request) -> Response:
        turns.append(rounds.count)
        return Response(204)

    begin, end = b"GET / HTTP/1.1\r\nHost: example.org\r\nPadding: ", b"\r\n\r\n"
    request = begin + b"x" * max(0, size - len(begin) - len(end)) + end
    async with serving(handler) as server:
        client = await server.connect()
        trio.lowlevel.add_instrument(rounds)
        await client.send(request * count)
        for _ in range(count):
            assert (await client.answer()).status == 204
        trio.lowlevel.remove_instrument(rounds)
        await client.stream.aclose()
    assert len(set(turns)) == count


async def test_who_waits_for_answers_does_not_wait_for_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for the request lets others run; a checkpoint after it would be for nothing."""
    checkpoints = 0
    checkpoint = trio.lowlevel.checkpoint

    async def counted() -> None:
        nonlocal checkpoints
        checkpoints += 1
        await checkpoint()

    async with serving(ignore) as server:
        client = await server.connect()
        monkeypatch.setattr(trio.lowlevel, "checkpoint", counted)
        for _ in range(10):
            await trio.testing.wait_all_tasks_blocked()
            before = checkpoints
            await client.send(GET)
            assert (await client.answer()).status == 202
        await trio.testing.wait_all_tasks_blocked()
        assert checkpoints == before
        monkeypatch.undo()
        await client.stream.aclose()


# -- the end


@pytest.mark.parametrize("how", ["shutdown", "cancel"])
async def test_a_graceful_end(how: str) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/wait":
            begun.set()
            await go_on.wait()
        return Response(200, body=b"whole")

    async with serving(handler) as server:
        idle, busy = await server.connect(), await server.connect()
        port = server.listeners[0].socket.getsockname()[1]
        await idle.send(GET)
        assert (await idle.answer()).status == 200
        await busy.send(GET.replace(b"/a?b=c", b"/wait"))
        await begun.wait()
        if how == "cancel":
            server.scope.cancel()
        else:
            server.shutdown.set()
        assert await idle.rest() == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)
        assert not server.over.is_set()
        go_on.set()
        answer = await busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"whole", "close")
        for client in (idle, busy):
            await client.stream.aclose()
        await server.over.wait()


async def test_what_outlasts_the_grace_is_cancelled_and_waited_for() -> None:
    begun = trio.Event()
    saved = False

    async def handler(request: Request) -> Response:
        nonlocal saved
        begun.set()
        try:
            await trio.Event().wait()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                saved = True
        return Response(200)

    async with serving(handler, grace=0) as server:
        client = await server.connect()
        await client.send(GET)
        await begun.wait()
        server.shutdown.set()
        with pytest.raises(Truncated):
            await client.answer()
        await server.over.wait()
        assert saved
        await client.stream.aclose()
    assert server.exchanges[0].error == "cancelled"


async def test_who_wishes_twice_does_not_wait_for_the_grace() -> None:
    begun = trio.Event()
    saved = False

    async def handler(request: Request) -> Response:
        nonlocal saved
        begun.set()
        try:
            await trio.Event().wait()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                saved = True
        return Response(200)

    async with serving(handler, grace=1000) as server:
        client = await server.connect()
        await client.send(GET)
        await begun.wait()
        server.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not server.over.is_set()
        server.scope.cancel()
        with trio.fail_after(10):
            await server.over.wait()
        assert saved
        with pytest.raises(Truncated):
            await client.answer()
        await client.stream.aclose()
    assert server.exchanges[0].error == "cancelled"


# -- limits


class Failing(socket.socket):
    """Listens in the place of another, and fails to accept with those errors first."""

    def __init__(self, listening: socket.socket, failures: list[int]) -> None:
        super().__init__(fileno=listening.detach())
        self.setblocking(False)
        self.failures = failures

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


async def test_no_more_connections_than_allowed() -> None:
    async with serving(echo, limits=Limits(connections=2)) as server:
        clients = [await server.connect() for _ in range(3)]
        for client in clients[:2]:
            await client.send(GET)
            assert (await client.answer()).status == 200
        await clients[2].send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(server.exchanges) == 2
        await clients[0].stream.aclose()
        assert (await clients[2].answer()).status == 200
        for client in clients:
            await client.stream.aclose()


async def test_no_address_keeps_room_from_another() -> None:
    async with serving(echo, "127.0.0.1:0", "127.0.0.1:0", limits=Limits(connections=1)) as server:
        await trio.testing.wait_all_tasks_blocked()
        for index in (0, 1, 1, 0):
            client = await server.connect(index)
            await client.send(GET)
            with trio.fail_after(10):
                assert (await client.answer()).status == 200
            await client.stream.aclose()


async def test_accepting_survives_a_system_without_room(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.001)
    caplog.set_level(logging.WARNING)
    [listener] = await open_listeners(["127.0.0.1:0"])
    failures = [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.EPERM]
    failing = Listener(Failing(listener.socket, failures), listener.address)
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_http(echo, [failing], limits=Limits(), grace=0, task_status=task_status)
        )
        client = Client(await trio.open_tcp_stream(*failing.socket.getsockname()))
        await client.send(GET)
        assert (await client.answer()).status == 200
        await client.stream.aclose()
        nursery.cancel_scope.cancel()
    assert not failures
    assert [record.getMessage() for record in caplog.records] == ["cannot accept connections: Too many open files"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EINVAL])
async def test_what_keeps_it_from_accepting_is_told_of_once_a_minute(
    number: int, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    [listener] = await open_listeners(["127.0.0.1:0"])
    failures = [number] * round(180 / module.ACCEPT_PAUSE)
    failing = Listener(Failing(listener.socket, failures), listener.address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http(echo, [failing], limits=Limits(), grace=0))
        await trio.sleep(200)
        nursery.cancel_scope.cancel()
    assert not failures
    assert len(caplog.records) == 3


# -- addresses


BAD_ADDRESSES = """
    9623 :9623 localhost 127.0.0.1: 127.0.0.1:x 127.0.0.1:65536 127.0.0.1:-1 127.0.0.1:\xb2 ::1:9623 unix:
    host.invalid:80 203.0.113.1:0 unix:/nonexistent/folder/socket
"""


@pytest.mark.parametrize("address", ["", "a" * 70 + ".invalid:80", *BAD_ADDRESSES.split()])
async def test_bad_addresses(address: str) -> None:
    with pytest.raises(ListenError) as caught:
        await open_listeners([address])
    assert address in str(caught.value)


async def test_a_taken_port_and_nothing_left_open() -> None:
    [taken] = await open_listeners(["127.0.0.1:0"])
    with pytest.raises(ListenError, match="in use"):
        await open_listeners(["127.0.0.1:0", taken.address.removeprefix("http://")])
    taken.close()
    taken.close()
    [again] = await open_listeners([taken.address.removeprefix("http://")])
    again.close()


async def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    [first] = await open_listeners([f"unix:{path}"], unix_mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ListenError, match="in use"):
        await open_listeners([f"unix:{path}"])
    assert path.exists()
    first.socket.close()  # as a crash would: the file stays
    assert path.exists()
    [second] = await open_listeners([f"unix:{path}"])
    second.close()
    assert not path.exists()
    path.write_text("no socket")
    with pytest.raises(ListenError, match="in use"):
        await open_listeners([f"unix:{path}"])
    assert path.read_text() == "no socket"


async def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    with as_nobody() as folder:
        folder.chmod(0o500)
        try:
            with pytest.raises(ListenError, match="permission"):
                await open_listeners([f"unix:{folder}/socket"])
        finally:
            folder.chmod(0o700)


async def test_headers_of_handlers_reach_real_clients() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, Headers.of({"docker-distribution-api-version": "registry/2.0"}))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(GET)
        assert "Docker-Distribution-Api-Version" in (await client.answer()).raw_names
        await client.stream.aclose()


async def test_content_is_received_as_the_limits_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, ...]] = []
    really = SocketTransport.receive_into

    async def receive_into(self: SocketTransport, buffer: memoryview, *how: float) -> int:
        asked.append(how)
        return await really(self, buffer, *how)  # type: ignore[arg-type]

    monkeypatch.setattr(SocketTransport, "receive_into", receive_into)
    for gather_time in (0.25, 0.0):
        asked.clear()
        async with serving(echo, limits=Limits(read_timeout=7.0, gather_time=gather_time)) as server:
            client = await server.connect()
            await client.send(post(b"a" * (HEAD_READ + 10)))
            assert (await client.answer()).status == 200
        assert (7.0, asked[1][1], gather_time) == asked[1]
        assert asked[0] == ()


async def test_transports_of_a_hosts_own() -> None:
    """Each is interposed in the task of its connection."""
    made: ContextVar[Transport] = ContextVar("made")
    seen: list[Transport] = []

    def interpose(transport: Transport) -> Transport:
        made.set(transport)
        return transport

    async def handler(request: Request) -> Response:
        seen.append(made.get())
        return Response(200, body=str(request.client).encode())

    async with serving(handler, interpose=interpose) as server:
        clients = [await server.connect() for _ in range(2)]
        for client in [*clients, *clients]:
            await client.send(GET)
            assert (await client.answer()).body == b"127.0.0.1"
    assert seen[:2] == seen[2:]
    assert seen[0] is not seen[1]


async def test_a_transport_that_cannot_be_made_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    def interpose(transport: Transport) -> Transport:
        raise ZeroDivisionError

    async with serving(echo, limits=Limits(connections=1), interpose=interpose) as server:
        for _ in range(2):
            client = await server.connect()
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
                await client.stream.receive_some()
    assert [record.getMessage() for record in caplog.records] == ["a connection failed"] * 2

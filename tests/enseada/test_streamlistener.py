"""Trio's listeners under the server: what is told of them, TLS, and clients that are none."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from enseada.http import Response
from enseada.server import serve_http
from enseada.streamlistener import StreamListener
from tests.enseada.certificate import contexts
from tests.enseada.http_client import GET, Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from enseada.exchange import Exchange
    from enseada.http import Request


async def where(request: Request) -> Response:
    """Answers with the address by which it was reached, and from where."""
    return Response(200, body=f"{request.url('/')} {request.client}".encode())


@asynccontextmanager
async def serving(listener: trio.abc.Listener[Any], exchanges: list[Exchange] | None = None) -> AsyncIterator[str]:
    """Serve ``where``; its address."""
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[Any]) -> None:
            log = None if exchanges is None else exchanges.append
            await serve_http(where, [listener], grace=5, on_exchange=log, task_status=task_status)

        [served] = await nursery.start(run)
        yield served.address
        nursery.cancel_scope.cancel()


async def test_tls(tmp_path: Path) -> None:
    server, client = contexts(tmp_path)
    [listener] = await trio.open_ssl_over_tcp_listeners(0, server, host="127.0.0.1")
    exchanges: list[Exchange] = []
    async with serving(listener, exchanges) as address:
        scheme, _, authority = address.partition("://")
        host, _, port = authority.partition(":")
        assert (scheme, host) == ("https", "127.0.0.1")
        # Who speaks no TLS is sent away, and the next is served.
        plain = await trio.open_tcp_stream(host, int(port))
        await plain.send_all(GET)
        assert b"HTTP" not in await Client(plain).rest()
        await plain.aclose()
        stream = await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=client)
        asking = Client(stream)
        for _ in range(2):
            await asking.send(GET)
            assert (await asking.answer()).body == b"https://example.org/ 127.0.0.1"
        await stream.aclose()
    assert [exchange.client for exchange in exchanges] == ["127.0.0.1"] * 2


async def test_tcp() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with serving(listener) as address:
        assert address == f"http://127.0.0.1:{port}"
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(GET)
        assert (await Client(stream).answer()).body == b"http://example.org/ 127.0.0.1"
        await stream.aclose()


async def test_a_unix_socket(tmp_path: Path) -> None:
    """It is the host's, and so is its file."""
    path = tmp_path / "socket"
    listening = trio.socket.socket(socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen()
    async with serving(trio.SocketListener(listening)) as address:
        assert address == f"http+unix://{path}"
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(GET)
        assert (await Client(stream).answer()).body == b"http://example.org/ None"
        await stream.aclose()
    assert path.exists()


async def test_a_listener_of_a_kind_that_nobody_knows() -> None:
    class Alone(trio.abc.Listener[trio.abc.Stream]):
        """One client, and no more."""

        def __init__(self, stream: trio.abc.Stream) -> None:
            self.streams = [stream]

        async def accept(self) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if not self.streams:
                await trio.sleep_forever()
            return self.streams.pop()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    ours, theirs = trio.testing.memory_stream_pair()
    async with serving(Alone(theirs)) as address:
        assert address == "-"
        await ours.send_all(GET)
        assert (await Client(ours).answer()).body == b"http://example.org/ None"
        await ours.aclose()


async def test_it_is_closed_without_waiting() -> None:
    class Slow(trio.abc.Listener[trio.abc.Stream]):
        """Its end would take for ever."""

        def __init__(self) -> None:
            self.closing = 0

        async def accept(self) -> trio.abc.Stream:
            await trio.sleep_forever()
            raise AssertionError

        async def aclose(self) -> None:
            self.closing += 1
            await trio.sleep_forever()

    slow = Slow()
    async with serving(slow):
        pass
    await StreamListener(slow).aclose()
    assert slow.closing >= 2

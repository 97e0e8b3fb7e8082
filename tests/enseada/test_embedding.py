"""A registry in a host's program: when it answers, what it opens and closes, and beside what it is served."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
import trio.testing

import enseada
from tests.enseada.http_client import GET, Client
from tests.enseada.oci_client import cheap_settings
from tests.enseada.pushing import push_and_pull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def connected(handler: enseada.Handler) -> AsyncIterator[Client]:
    """A client on the other end of a memory stream."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(enseada.serve_connection, theirs, handler)
        yield Client(ours)
        await ours.aclose()


async def test_it_answers_while_it_is_running(tmp_path: Path) -> None:
    registry = enseada.Registry(cheap_settings(data=tmp_path / "data"))
    async with connected(registry) as client:
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, b"async with registry.running():" in answer.body) == (503, True)
        assert not (tmp_path / "data").exists()
        for name in ("one", "two"):
            assert (registry.is_running, registry.prefixes) == (False, ())
            async with registry.running() as entered:
                assert entered is registry
                assert (registry.is_running, registry.prefixes) == (True, ("/v2",))
                await push_and_pull(client, name)
        await client.send(GET)
        assert (await client.answer()).status == 503


async def test_it_runs_once_at_a_time(tmp_path: Path) -> None:
    settings = cheap_settings(data=tmp_path / "data")
    registry, other = enseada.Registry(settings), enseada.Registry(settings)
    async with registry.running():
        with pytest.raises(RuntimeError, match="already"):
            async with registry.running():
                pass
        assert registry.is_running
        with pytest.raises(enseada.StartError, match="another Enseada"):
            async with other.running():
                pass
        assert not other.is_running
    async with other.running():
        assert other.is_running


async def test_a_failing_block_closes_it(tmp_path: Path) -> None:
    registry = enseada.Registry(cheap_settings(data=tmp_path / "data"))
    with pytest.raises(BaseExceptionGroup) as caught:
        async with registry.running():
            raise KeyError("of the host's")
    assert caught.group_contains(KeyError)
    async with registry.running():
        assert registry.is_running


async def test_the_password_that_was_made_is_known_while_it_runs(tmp_path: Path) -> None:
    registry = enseada.Registry(enseada.Settings(data=tmp_path / "data"))
    known = [registry.admin_password]
    for _ in range(2):
        async with registry.running():
            known.append(registry.admin_password)
        known.append(registry.admin_password)
    assert [each is not None for each in known] == [False, True, False, False, False]


async def test_stores_of_the_hosts_own() -> None:
    """They are opened when it runs, and closed when it ends."""
    states: list[str] = []

    @asynccontextmanager
    async def stores() -> AsyncIterator[tuple[enseada.DocumentStore, enseada.BlobStore]]:
        async with enseada.memory_stores() as opened:
            states.append("open")
            yield opened
            states.append("still running" if registry.is_running else "closing")

    registry = enseada.Registry(cheap_settings(), stores=stores)
    async with connected(registry) as client:
        assert states == []
        async with registry.running():
            assert states == ["open"]
            await push_and_pull(client)
        assert states == ["open", "closing"]


async def test_stores_that_cannot_be_opened() -> None:
    @asynccontextmanager
    async def stores() -> AsyncIterator[tuple[enseada.DocumentStore, enseada.BlobStore]]:
        async with enseada.memory_stores() as opened:
            await refuse()
            yield opened

    async def refuse() -> None:
        raise ConnectionError("nobody there")

    registry = enseada.Registry(cheap_settings(), stores=stores)
    with pytest.raises(ConnectionError):
        async with registry.running():
            pass
    assert not registry.is_running


async def test_beside_a_handler_of_the_hosts_own(tmp_path: Path) -> None:
    registry = enseada.Registry(cheap_settings(data=tmp_path / "data"))

    async def handler(request: enseada.Request) -> enseada.Response:
        if request.path == "/hello":
            return enseada.Response(200, body=b"hello\n")
        return await registry(request)

    async with registry.running(), trio.open_nursery() as nursery:
        listeners = await enseada.open_listeners(["127.0.0.1:0"])
        [listener] = await nursery.start(enseada.serve_http, handler, listeners)
        stream = await trio.open_tcp_stream(*listener.socket.getsockname())
        client = Client(stream)
        await client.send(b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.answer()).body == b"hello\n"
        await push_and_pull(client)
        await stream.aclose()
        nursery.cancel_scope.cancel()


def test_under_asyncio(tmp_path: Path) -> None:
    async def main() -> None:
        registry = enseada.Registry(cheap_settings(data=tmp_path / "data"))
        async with registry.running():
            assert registry.is_running

    anyio.run(main, backend="asyncio")

"""What fails: handlers, the content of answers, clients that go, cancellation. Nothing is silently cut or left open."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

from enseada.connection import serve_connection
from enseada.exchange import CLIENT_GONE, Exchange
from enseada.http import BodyError, Headers, RegistryError, Request, Response
from enseada.limits import Limits
from enseada.transport import StreamTransport
from tests.cancel import cancel_at_every_checkpoint
from tests.enseada.http_client import GET, Client, Closing, Truncated, chunked, echo, pieces, post, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.mark.parametrize("error", [ValueError("secret"), ExceptionGroup("secret", [KeyError("secret")])])
async def test_a_handler_that_raises(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Response:
        if request.method == "GET":
            raise error
        return await echo(request)

    caplog.set_level(logging.ERROR, "enseada.server")
    async with served(handler) as service:
        await service.client.send(GET + post(b"x"))
        answer = await service.client.answer()
        assert answer.status == 500
        request_id = answer.headers["x-request-id"]
        assert answer.body == f"internal error, request {request_id}\n".encode()
        assert (await service.client.answer()).status == 200
    [record] = caplog.records
    assert request_id in record.getMessage()
    assert record.exc_info
    assert record.exc_info[1] is error
    assert service.exchanges[0].error


async def test_a_refusal_that_nobody_rendered() -> None:
    async def handler(request: Request) -> Response:
        raise RegistryError(503, "UNAVAILABLE", "later", headers=[("Retry-After", "5")])

    async with served(handler) as service:
        await service.client.send(GET)
        answer = await service.client.answer()
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"UNAVAILABLE: later\n", "5")


@pytest.mark.parametrize(
    "response", [Response(101), *(Response(200, Headers([field])) for field in [(b"x", b"a\r\nb"), (b"a b", b"")])]
)
async def test_an_answer_that_cannot_be_sent(response: Response, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Response:
        return response

    async with served(handler) as service:
        await service.client.send(GET)
        assert (await service.client.answer()).status == 500
    assert len(caplog.records) == 1


async def broken(*values: bytes) -> AsyncIterator[bytes]:
    for value in values:
        yield value
    raise OSError("the disk is on fire")


async def test_content_that_breaks_before_its_first_byte_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=broken())

    async with served(handler) as service:
        await service.client.send(GET * 2)
        for _ in range(2):
            assert (await service.client.answer()).status == 500


@pytest.mark.parametrize(
    "make",
    [
        lambda: Response(200, body=broken(b"some")),
        lambda: Response(200, body=broken(b"some"), length=10),
        lambda: Response(200, body=pieces(b"short"), length=10),
        lambda: Response(200, body=pieces(b"too", b"long"), length=5),
    ],
)
async def test_content_that_breaks_off_is_cut(make, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    async def handler(request: Request) -> Response:
        made: Response = make()
        return made

    async with served(handler) as service:
        await service.client.send(GET * 2)
        with pytest.raises(Truncated):
            await service.client.answer()
        assert service.client.eof
    assert "broke off" in caplog.text
    assert service.exchanges[0].status == 200
    assert service.exchanges[0].error
    assert len(service.exchanges) == 1


@pytest.mark.parametrize("request_", [GET, GET.replace(b"GET", b"HEAD"), GET.replace(b"1.1", b"1.0")])
async def test_content_is_sent_and_closed(request_: bytes) -> None:
    content = Closing(b"one", b"two")

    async def handler(request: Request) -> Response:
        return Response(200, body=content)

    async with served(handler) as service:
        await service.client.send(request_)
        method = request_.split()[0].decode()
        answer = await service.client.answer(method)
        assert answer.headers["content-length"] == "6"
        assert answer.body == (b"" if method == "HEAD" else b"onetwo")
        await service.client.send_eof()
        await service.over.wait()
    assert content.closed == 1


async def test_on_exchange_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fail(exchange: Exchange) -> None:
        raise ValueError("no")

    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(StreamTransport(theirs), echo, limits=Limits(), on_exchange=fail))
        await client.send(GET * 2)
        for _ in range(2):
            assert (await client.answer()).status == 200
        await client.send_eof()
    assert "on_exchange" in caplog.text


# -- clients that go


async def test_a_client_that_goes_in_the_middle_of_its_content_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async with served(echo) as service:
        await service.client.send(post(b"12345")[:-2])
        await service.client.stream.aclose()
        await service.over.wait()
    [exchange] = service.exchanges
    assert exchange.error
    assert exchange.status == 400
    assert not caplog.records


async def test_a_client_that_goes_in_the_middle_of_an_answer_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    closed = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.set()

    async def handler(request: Request) -> Response:
        return Response(200, body=endless())

    async with served(handler, lockstep=True) as service:
        await service.client.send(GET)
        await service.client.stream.receive_some(1000)
        await service.client.stream.aclose()
        await closed.wait()
        await service.over.wait()
    assert "has gone" in str(service.exchanges[0].error)
    assert not caplog.records


async def test_a_client_that_goes_before_its_head_is_whole_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    for sent in (b"", GET[:10]):
        async with served(echo) as service:
            await service.client.send(sent)
            await service.client.stream.aclose()
            await service.over.wait()
        assert not service.exchanges
    assert not caplog.records


async def test_reset_while_content_is_read() -> None:
    """What a reset raises is a body error that nobody needs to be told of."""
    raised: list[BodyError] = []

    class Resetting(StreamTransport):
        count = 0

        async def receive_into(
            self, buffer: memoryview, timeout: float = 0, certain: int = 1, gather_time: float = 0
        ) -> int:
            Resetting.count += 1
            if Resetting.count > 1:
                raise trio.BrokenResourceError
            return await super().receive_into(buffer, 100)

    async def handler(request: Request) -> Response:
        try:
            return await echo(request)
        except BodyError as error:
            raised.append(error)
            raise

    exchanges: list[Exchange] = []
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(post(b"12345")[:-2])
    await serve_connection(Resetting(theirs), handler, limits=Limits(), on_exchange=exchanges.append)
    assert raised[0].status is None
    assert exchanges[0].status == CLIENT_GONE


# -- cancellation


@pytest.mark.parametrize("sent", [GET, post(b"x" * 3000), chunked(b"x" * 3000), post(b"", b"Expect: 100-continue")])
async def test_cancelled_at_every_await(sent: bytes) -> None:
    made: list[tuple[trio.testing.MemoryReceiveStream, Closing]] = []
    exchanges: list[Exchange] = []

    async def make() -> None:
        content = Closing(b"one", b"two")

        async def handler(request: Request) -> Response:
            async for _ in request.body:
                await trio.lowlevel.checkpoint()
            return Response(200, body=content)

        ours, theirs = trio.testing.memory_stream_pair()
        made.append((ours.receive_stream, content))
        theirs.receive_stream.put_data(sent)
        theirs.receive_stream.put_eof()
        await serve_connection(StreamTransport(theirs), handler, limits=Limits(), on_exchange=exchanges.append)

    answers: list[bytes] = []

    async def after() -> None:
        receive, content = made.pop()
        answer = b""
        with trio.move_on_after(1) as late:
            try:
                while data := await receive.receive_some():
                    answer += bytes(data)
            except trio.BrokenResourceError:
                pass
        answers.append(answer)
        if late.cancelled_caught:
            raise AssertionError("the connection was left open")
        if answer:
            assert content.closed == 1

    runs = await cancel_at_every_checkpoint(make, after)
    assert runs > 5
    assert answers[-1].endswith(b"onetwo")
    assert all(exchange.error in (None, "cancelled") for exchange in exchanges)

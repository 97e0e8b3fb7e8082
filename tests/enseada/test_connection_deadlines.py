"""How long a client may take for a head, for content, for an answer; how connections end. On a mock clock."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from enseada.http import BodyError, Request, Response
from enseada.limits import Limits
from tests.enseada.http_client import GET, Truncated, chunked, echo, ignore, pieces, post, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMITS = Limits()


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    for before in (b"", GET):
        async with served(echo) as service:
            if before:
                await service.client.send(before)
                await service.client.answer()
            began = trio.current_time()
            assert await service.client.rest() == b""
            assert trio.current_time() - began == pytest.approx(LIMITS.idle_timeout)
            await service.over.wait()


@pytest.mark.parametrize("first", [b"", GET])
async def test_a_slow_head_is_refused(autojump_clock: trio.testing.MockClock, first: bytes) -> None:
    async with served(echo) as service:
        await trio.sleep(50)
        await service.client.send(first + GET[:5])
        began = trio.current_time()
        if first:
            await service.client.answer()
        await trio.sleep(LIMITS.head_timeout / 2)
        await service.client.send(GET[5:10])  # progress does not move the deadline
        answer = await service.client.answer()
        assert trio.current_time() - began == pytest.approx(LIMITS.head_timeout)
        assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert service.exchanges[-1].status == 408


async def test_the_time_of_a_handler_is_nobodys_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: Request) -> Response:
        await trio.sleep(10_000)
        content = [bytes(chunk) async for chunk in request.body]
        await trio.sleep(10_000)
        return Response(200, body=slowly(*content))

    async def slowly(*values: bytes) -> AsyncIterator[bytes]:
        for value in values:
            await trio.sleep(10_000)
            yield value

    async with served(handler) as service:
        await service.client.send(post(b"content") * 2)
        for _ in range(2):
            assert (await service.client.answer()).body == b"content"


async def test_content_that_stops_coming(autojump_clock: trio.testing.MockClock) -> None:
    raised: list[BodyError] = []

    async def handler(request: Request) -> Response:
        try:
            return await echo(request)
        except BodyError as error:
            raised.append(error)
            raise

    for sent in (post(b"content")[:-3], chunked(b"content")[:-8]):
        async with served(handler) as service:
            await service.client.send(sent)
            began = trio.current_time()
            answer = await service.client.answer()
            assert trio.current_time() - began == pytest.approx(LIMITS.read_timeout)
            assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert raised.pop().status == 408
        assert service.exchanges[0].status == 408


async def test_slow_content_that_keeps_coming_is_read(autojump_clock: trio.testing.MockClock) -> None:
    """200 bytes a second is slow, and takes longer than any deadline; it is above the least rate."""
    async with served(echo) as service:
        whole = post(b"x" * 30_000)
        await service.client.send(whole[:-20_000])
        for _ in range(100):
            await trio.sleep(1)
            await service.client.send(b"x" * 200)
        assert (await service.client.answer()).status == 200


async def test_content_below_the_least_rate(autojump_clock: trio.testing.MockClock) -> None:
    async with served(echo) as service:
        await service.client.send(post(b"x" * 10_000)[:-9_999])
        began = trio.current_time()
        while not service.exchanges:
            await trio.sleep(1)
            await service.client.send(b"x")
        assert trio.current_time() - began == pytest.approx(LIMITS.rate_grace, abs=2)
        assert (await service.client.answer()).status == 408


@pytest.mark.parametrize(("size", "status"), [(611, 200), (609, 408)])
async def test_what_has_just_come_counts(autojump_clock: trio.testing.MockClock, size: int, status: int) -> None:
    """A client is judged when content comes, with that content: 610 bytes are due after 61 seconds."""
    limits = Limits(read_timeout=100, min_rate=10, rate_grace=60)
    async with served(echo, limits) as service:
        whole = post(b"x" * size)
        await service.client.send(whole[: 1 - size])
        await trio.sleep(61)
        await service.client.send(whole[1 - size :])
        assert (await service.client.answer()).status == status


async def test_a_client_that_does_not_take_its_answer_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=b"x" * 1_000_000)

    async with served(handler, lockstep=True) as service:
        await service.client.send(GET)
        began = trio.current_time()
        await service.over.wait()
        assert trio.current_time() - began == pytest.approx(LIMITS.write_timeout)
        with pytest.raises(Truncated):
            await service.client.answer()
    assert "took nothing" in str(service.exchanges[0].error)


@pytest.mark.parametrize("known", [True, False])
async def test_a_client_that_takes_its_answer_slowly_gets_it(
    autojump_clock: trio.testing.MockClock, known: bool
) -> None:
    content = b"x" * 1_000_000

    async def handler(request: Request) -> Response:
        return Response(200, body=content if known else pieces(content))

    async with served(handler, lockstep=True) as service:
        await service.client.send(GET)
        received = b""
        while content not in received.replace(b"\r\n", b"") and len(received) < 1_000_000:
            await trio.sleep(LIMITS.write_timeout / 2)
            received += bytes(await service.client.stream.receive_some(1_000_000))
        assert trio.current_time() > 10 * LIMITS.write_timeout / 2
    assert len(received) >= 1_000_000


async def test_draining_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with served(ignore) as service:
        await service.client.send(post(b"x" * 100)[:-50])
        assert (await service.client.answer()).status == 202
        began = trio.current_time()
        assert await service.client.rest() == b""
        assert trio.current_time() - began == pytest.approx(LIMITS.drain_timeout)
        await service.over.wait()
        assert trio.current_time() - began == pytest.approx(2 * LIMITS.drain_timeout)  # and so has lingering


async def test_lingering_ends_though_the_client_goes_on_sending(autojump_clock: trio.testing.MockClock) -> None:
    async with served(ignore) as service:
        await service.client.send(b"nonsense\r\n\r\n")
        assert (await service.client.answer()).status == 400
        began = trio.current_time()
        with suppress(trio.BrokenResourceError):
            while trio.current_time() - began < 100:
                await service.client.send(b"more nonsense")
                await trio.sleep(0.1)
        assert trio.current_time() - began == pytest.approx(LIMITS.drain_timeout, abs=0.2)


# -- when the server ends


async def test_idle_connections_end_at_once(autojump_clock: trio.testing.MockClock) -> None:
    for before in (b"", GET):
        async with served(echo) as service:
            if before:
                await service.client.send(before)
                await service.client.answer()
            await trio.testing.wait_all_tasks_blocked()
            service.ending.begin()
            began = trio.current_time()
            assert await service.client.rest() == b""
            assert trio.current_time() == began
            await service.over.wait()
        assert not service.ending.idle


async def test_a_request_under_way_is_the_last_of_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        begun.set()
        await go_on.wait()
        return await echo(request)

    async with served(handler) as service:
        await service.client.send(post(b"content") + GET)
        await begun.wait()
        service.ending.begin()
        go_on.set()
        answer = await service.client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert answer.body.endswith(b"content")
        assert await service.client.rest() == b""
        await service.over.wait()
    assert len(service.exchanges) == 1


async def test_a_head_under_way_may_still_be_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with served(echo) as service:
        await service.client.send(GET[:10])
        await trio.testing.wait_all_tasks_blocked()
        service.ending.begin()
        await service.client.send(GET[10:])
        assert (await service.client.answer()).headers["connection"] == "close"

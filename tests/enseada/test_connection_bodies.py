"""The content of requests: wherever the stream is cut it is the same, lent for one step, and asked for when pulled."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from enseada.connection import shared_buffer
from enseada.http import BodyError, Request, Response
from enseada.limits import Limits
from tests.enseada.http_client import GET, chunked, echo, ignore, post, served
from tests.poison import POISON, poisoned_loans

STREAM = (
    GET
    + post(b"known")
    + b"\r\n"
    + chunked(b"a" * 300, b"b", b"c" * 20, fields=(b"Expect: 100-continue",))
    + post(b"", target=b"/empty")
    + chunked()
    + GET.replace(b"GET", b"DELETE")
)
EXPECTED = [
    b"GET /a b=c example.org 0\n",
    b"POST /p  h 5\nknown",
    b"POST /c  h None\n" + b"a" * 300 + b"b" + b"c" * 20,
    b"POST /empty  h 0\n",
    b"POST /c  h None\n",
    b"DELETE /a b=c example.org 0\n",
]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_cut_anywhere_the_requests_are_the_same(cuts: list[int]) -> None:
    trio.run(serve_cut, cuts)


def test_byte_by_byte_the_requests_are_the_same() -> None:
    trio.run(serve_cut, list(range(len(STREAM))))


async def serve_cut(cuts: list[int]) -> None:
    edges = sorted({0, len(STREAM), *cuts})
    async with served(echo) as service:

        async def send() -> None:
            for start, stop in pairwise(edges):
                await service.client.send(STREAM[start:stop])
                await trio.testing.wait_all_tasks_blocked()

        with poisoned_loans():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                for expected in EXPECTED:
                    assert (await service.client.answer()).body == expected
    assert [exchange.bytes_in for exchange in service.exchanges] == [0, 5, 321, 0, 0, 0]


# -- the content of requests


async def test_the_length_is_told_and_content_is_bounded_by_it() -> None:
    async with served(echo) as service:
        await service.client.send(post(b"x" * 10_000)[:6_000])
        await trio.testing.wait_all_tasks_blocked()
        await service.client.send(post(b"x" * 10_000)[6_000:] + GET)
        assert (await service.client.answer()).body == b"POST /p  h 10000\n" + b"x" * 10_000
        assert (await service.client.answer()).status == 200


async def test_a_chunk_is_lent_until_the_next_await() -> None:
    """What a handler keeps without copying is overwritten; the tests' own poison works."""
    seen: list[bytes] = []

    async def handler(request: Request) -> Response:
        async for chunk in request.body:
            seen.append(bytes(chunk))
            if isinstance(chunk, memoryview):
                assert shared_buffer().lent is not None
                await trio.lowlevel.checkpoint()
                assert bytes(chunk) == bytes([POISON]) * len(chunk)
        return Response(200)

    async with served(handler) as service:
        with poisoned_loans() as poison:
            await service.client.send(post(b"x" * 5000)[:100])
            await trio.testing.wait_all_tasks_blocked()
            await service.client.send(post(b"x" * 5000)[100:])
            assert (await service.client.answer()).status == 200
            assert poison.poisoned > 4000
    assert b"".join(seen) == b"x" * 5000


async def test_many_uploads_at_once_share_one_buffer() -> None:
    async with trio.open_nursery() as nursery:

        async def upload(fill: bytes) -> None:
            content = fill * 200_000
            whole = post(content)
            async with served(echo) as service:
                for start in range(0, len(whole), 30_000):
                    await service.client.send(whole[start : start + 30_000])
                    await trio.lowlevel.checkpoint()
                assert (await service.client.answer()).body.endswith(b"200000\n" + content)

        for fill in (b"a", b"b", b"c"):
            nursery.start_soon(upload, fill)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (post(b"12345")[:-2], "ended before"),
        (chunked(b"12345")[:-4], "ended before"),
        (chunked(b"12345").replace(b"5\r\n1", b"5x\r\n1"), "malformed"),
        (chunked(b"12345").replace(b"5\r\n1", b"5;" + b"e" * 20_000 + b"\r\n1"), "exten"),
        (chunked(b"12345").replace(b"0\r\n", b"0\r\n" + b"A: b\r\n" * 2_000), "trailer"),
    ],
)
async def test_broken_content(sent: bytes, message: str) -> None:
    raised: list[BodyError] = []

    async def handler(request: Request) -> Response:
        try:
            return await echo(request)
        except BodyError as error:
            raised.append(error)
            with pytest.raises(BodyError):
                await anext(aiter(request.body))
            raise

    async with served(handler) as service:
        await service.client.send(sent)
        await service.client.send_eof()
        answer = await service.client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await service.client.rest() == b""
        await service.over.wait()
    assert raised[0].status == 400
    assert message in str(raised[0]) or "too long" in str(raised[0])


async def test_content_of_a_request_that_is_over_cannot_be_read() -> None:
    kept: list[Request] = []

    async def handler(request: Request) -> Response:
        kept.append(request)
        return Response(200)

    async with served(handler) as service:
        await service.client.send(post(b"x" * 10, b"Expect: 100-continue"))
        assert (await service.client.answer()).status == 200
        with pytest.raises(BodyError):
            await anext(aiter(kept[0].body))


async def test_content_of_tiny_chunks() -> None:
    content = b"x" * 3_000
    async with served(echo) as service:
        await service.client.send(chunked(*(b"x" for _ in content)) + GET)
        assert (await service.client.answer()).body.endswith(content)
        assert (await service.client.answer()).status == 200


# -- 100-continue


async def test_continue_is_said_when_the_content_is_pulled() -> None:
    pull = trio.Event()

    async def handler(request: Request) -> Response:
        await pull.wait()
        return await echo(request)

    async with served(handler) as service:
        await service.client.send(post(b"content", b"Expect: 100-continue").removesuffix(b"content"))
        with trio.testing.assert_checkpoints():
            await trio.testing.wait_all_tasks_blocked()
        assert service.client.buffer == b""
        pull.set()
        assert await service.client.interim() == b"HTTP/1.1 100 Continue"
        await service.client.send(b"content" + GET)
        assert (await service.client.answer()).body.endswith(b"content")
        assert (await service.client.answer()).status == 200


async def test_a_refused_upload_is_never_asked_for() -> None:
    async with served(ignore) as service:
        await service.client.send(post(b"content", b"Expect: 100-continue").removesuffix(b"content"))
        raw = await service.client.rest()
        assert raw.startswith(b"HTTP/1.1 202")
        assert b"\r\nConnection: close\r\n" in raw
        assert b"100 Continue" not in raw


async def test_continue_is_not_said_when_there_is_nothing_to_send_or_it_is_there() -> None:
    async with served(echo) as service:
        await service.client.send(post(b"", b"Expect: 100-continue"))
        await service.client.send(post(b"here", b"Expect: 100-Continue"))
        await service.client.send(post(b"here", b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"))
        await service.client.send_eof()
        raw = await service.client.rest()
    assert raw.count(b"HTTP/1.1 200") == 3
    assert b"100 Continue" not in raw


async def test_other_expectations_fail() -> None:
    async with served(echo) as service:
        await service.client.send(post(b"x", b"Expect: 200-ok"))
        assert (await service.client.answer()).status == 417


# -- answers before the content has come


@pytest.mark.parametrize("sent", [post(b"x" * 5_000), chunked(b"x" * 5_000), chunked(b"x" * 3_000, b"y")])
async def test_a_little_unread_content_is_drained(sent: bytes) -> None:
    async with served(ignore) as service:
        await service.client.send(sent + GET)
        first = await service.client.answer()
        assert "connection" not in first.headers
        assert (await service.client.answer()).status == 202
    assert service.exchanges[1].path == "/a"


async def test_much_unread_content_ends_the_connection() -> None:
    limits = Limits(drain_bytes=1000)
    async with served(ignore, limits) as service:
        await service.client.send(post(b"x" * 6000)[:5000])
        answer = await service.client.answer()
        assert (answer.status, answer.headers["connection"]) == (202, "close")
        assert await service.client.rest() == b""  # it has ended its half, and still reads
        assert not service.over.is_set()
        await service.client.send(b"x" * 1000)
        await service.client.send_eof()
        await service.over.wait()


async def test_much_unread_chunked_content_ends_the_connection() -> None:
    limits = Limits(drain_bytes=1000)
    async with served(ignore, limits) as service:
        await service.client.send(chunked(*[b"x" * 5000] * 100) + GET)
        assert (await service.client.answer()).status == 202
        assert await service.client.rest() == b""
        await service.client.send_eof()
        await service.over.wait()
    assert len(service.exchanges) == 1

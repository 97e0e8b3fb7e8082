"""The connection loop: one request after another, and every answer framed right. Over memory streams."""

from __future__ import annotations

import pytest
import trio

from enseada.connection import serve_connection
from enseada.exchange import Exchange
from enseada.http import Headers, Request, Response
from enseada.limits import Limits
from enseada.transport import StreamTransport
from tests.enseada.http_client import GET, chunked, echo, pieces, post, served


async def test_an_answer_whole() -> None:
    async with served(echo) as service:
        await service.client.send(GET)
        answer = await service.client.answer()
    assert answer.status == 200
    assert answer.body == b"GET /a b=c example.org 0\n"
    assert answer.raw_names == ("Content-Type", "Content-Length", "Date", "Server", "X-Request-Id")
    assert answer.headers["server"] == "enseada"
    assert answer.headers["date"].endswith(" GMT")
    [exchange] = service.exchanges
    assert exchange == Exchange(
        "GET", "/a", "b=c", 200, 0, len(answer.body), exchange.seconds, "-", "192.0.2.1",
        answer.headers["x-request-id"], None,
    )  # fmt: skip


async def test_head_and_content_leave_in_one_send() -> None:
    sends: list[bytes] = []

    class Counting(StreamTransport):
        async def send(self, *parts: bytes | memoryview, timeout: float = 0, least_rate: float = 0) -> None:
            sends.append(b"".join(parts))
            await super().send(*parts, timeout=timeout, least_rate=least_rate)

    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(GET)
    await ours.send_eof()
    await serve_connection(Counting(theirs), echo, limits=Limits())
    assert len(sends) == 1
    assert sends[0].endswith(b"example.org 0\n")


async def test_ids_are_ours_and_differ() -> None:
    async with served(echo) as service:
        await service.client.send(GET.replace(b"\r\n\r\n", b"\r\nX-Request-Id: mine\r\n\r\n") * 2)
        ids = {(await service.client.answer()).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert "mine" not in ids


async def test_keep_alive_and_pipelining() -> None:
    async with served(echo) as service:
        await service.client.send(GET)
        assert (await service.client.answer()).body.startswith(b"GET /a")
        await service.client.send(GET + post(b"one") + b"\r\n" + chunked(b"tw", b"o") + GET)
        bodies = [(await service.client.answer()).body for _ in range(4)]
        assert [body.partition(b"\n")[2] for body in bodies] == [b"", b"one", b"two", b""]
        assert not service.over.is_set()


async def test_a_half_closed_client_is_served() -> None:
    async with served(echo) as service:
        await service.client.send(GET + post(b"x"))
        await service.client.send_eof()
        await service.client.answer()
        assert (await service.client.answer()).body.endswith(b"x")
        assert await service.client.rest() == b""
        await service.over.wait()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, Close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
)
async def test_the_last_answer_of_a_connection_says_so(head: bytes) -> None:
    async with served(echo) as service:
        await service.client.send(head + GET)
        answer = await service.client.answer()
        assert answer.headers["connection"] == "close"
        await service.client.send_eof()
        assert await service.client.rest() == b""
        await service.over.wait()
    assert len(service.exchanges) == 1


async def test_the_target_in_absolute_form_names_the_host() -> None:
    async with served(echo) as service:
        await service.client.send(b"GET http://other:81/x?y HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await service.client.answer()).body == b"GET /x y other:81 0\n"


async def test_content_of_unknown_length_is_chunked() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=pieces(b"one", b"", b"two"))

    async with served(handler) as service:
        await service.client.send(GET * 2)
        for _ in range(2):
            answer = await service.client.answer()
            assert answer.headers["transfer-encoding"] == "chunked"
            assert "content-length" not in answer.headers
            assert answer.body == b"onetwo"
        await service.client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await service.client.answer()
        assert answer.headers["connection"] == "close"
        assert "transfer-encoding" not in answer.headers
        assert answer.body == b"onetwo"
    assert [exchange.bytes_out for exchange in service.exchanges] == [6, 6, 6]


async def test_content_in_pieces_of_known_length() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=pieces(b"one", b"two"), length=6)

    async with served(handler) as service:
        await service.client.send(GET * 2)
        for _ in range(2):
            answer = await service.client.answer()
            assert answer.headers["content-length"] == "6"
            assert answer.body == b"onetwo"


async def test_empty_content_in_pieces() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=pieces())

    async with served(handler) as service:
        await service.client.send(GET * 2)
        for _ in range(2):
            assert (await service.client.answer()).body == b""


@pytest.mark.parametrize(
    ("response", "length"),
    [
        (lambda: Response(200, body=b"abc"), "3"),
        (lambda: Response(200, length=1234), "1234"),
        (lambda: Response(200), "0"),
        (lambda: Response(200, body=pieces(b"abc"), length=3), "3"),
        (lambda: Response(200, body=pieces(b"abc")), None),
    ],
)
async def test_head_is_answered_without_content(response, length) -> None:  # type: ignore[no-untyped-def]
    async def handler(request: Request) -> Response:
        made: Response = response()
        return made

    async with served(handler) as service:
        await service.client.send(GET.replace(b"GET", b"HEAD"))
        answer = await service.client.answer("HEAD")
        assert answer.headers.get("content-length") == length
        await service.client.send(GET.replace(b"GET", b"HEAD"))
        assert (await service.client.answer("HEAD")).status == 200
        await service.client.send_eof()
        assert await service.client.rest() == b""
    assert [exchange.bytes_out for exchange in service.exchanges] == [0, 0]


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_content(status: int) -> None:
    async def handler(request: Request) -> Response:
        return Response(status, body=b"must not be sent")

    async with served(handler) as service:
        await service.client.send(GET * 2)
        for _ in range(2):
            answer = await service.client.answer()
            assert answer.status == status
            assert "content-length" not in answer.headers
        await service.client.send_eof()
        assert await service.client.rest() == b""


async def test_framing_fields_of_a_handler_are_not_sent() -> None:
    async def handler(request: Request) -> Response:
        fields = {"Content-Length": "7", "Transfer-Encoding": "gzip", "Connection": "x", "ETag": '"e"'}
        return Response(200, Headers.of(fields | {"WWW-Authenticate": "Basic"}), b"ab")

    async with served(handler) as service:
        await service.client.send(GET)
        answer = await service.client.answer()
    assert answer.raw_names[:3] == ("ETag", "WWW-Authenticate", "Content-Length")
    assert answer.body == b"ab"
    assert "connection" not in answer.headers


# -- refusals


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (post(b"x", b"Transfer-Encoding: chunked"), 400),
        (post(b"x", b"Content-Length: 2"), 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000, 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
)
async def test_a_refused_head_ends_the_connection(head: bytes, status: int) -> None:
    async with served(echo) as service:
        await service.client.send(head + GET)
        answer = await service.client.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        await service.client.send_eof()
        assert await service.client.rest() == b""
        await service.over.wait()
    [exchange] = service.exchanges
    assert (exchange.method, exchange.status) == ("-", status)
    assert exchange.error


async def test_a_refused_head_after_a_served_one() -> None:
    async with served(echo) as service:
        await service.client.send(post(b"x") + b"nonsense\r\n\r\n")
        assert (await service.client.answer()).status == 200
        assert (await service.client.answer()).status == 400


async def test_an_empty_line_before_a_request_is_ignored() -> None:
    async with served(echo) as service:
        await service.client.send(b"\r\n" + GET)
        assert (await service.client.answer()).status == 200


async def test_who_speaks_tls_to_us_is_told() -> None:
    """Clients try it first, where they were not told that we are plain: the log should say what it was."""
    async with served(echo) as service:
        await service.client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert b"TLS" in (await service.client.answer()).body
        await service.client.send_eof()
        await service.over.wait()
    [exchange] = service.exchanges
    assert "TLS" in (exchange.error or "")

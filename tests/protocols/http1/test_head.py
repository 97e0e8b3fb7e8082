"""Which heads are refused and with what, and that what is accepted means to h11 what it means to us."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.limits import Limits
from enseada.protocols.http1.head import (
    CONTINUE,
    EMPTY_LINES,
    METHOD_BYTES,
    HeadBuffer,
    HeadError,
    check,
    split_target,
)
from tests.protocols.http1 import fuzz

LIMITS = Limits()


def refused(head: bytes, limits: Limits = LIMITS) -> int:
    with pytest.raises(HeadError) as caught:
        check(head, limits)
    return caught.value.status


def about(path: str, query: str, host: str, length: int | None, **more: object) -> dict[str, object]:
    """What a head of HTTP/1.1 says beside its method and its fields."""
    said = {"path": path, "query": query, "host": host, "length": length}
    return {**said, "modern": True, "persists": True, "expectation": None, **more}


def with_fields(*lines: bytes, start: bytes = b"POST /v2/ HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: example.org", *lines]) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (with_fields(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
        (with_fields(b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
        (with_fields(b"Content-Length: 5", b"Content-Length: 6"), 400),
        (with_fields(b"Content-Length: 5", b"Content-Length: 5"), 400),
        (with_fields(b"Content-Length: 5, 5"), 400),
        (with_fields(b"Content-Length: +5"), 400),
        (with_fields(b"Content-Length: -5"), 400),
        (with_fields(b"Content-Length: 5_0"), 400),
        (with_fields(b"Content-Length: 0x5"), 400),
        (with_fields(b"Content-Length: 5 5"), 400),
        (with_fields(b"Content-Length:"), 400),
        (with_fields(b"Content-Length: \xb2"), 400),
        (with_fields(b"Content-Length: \xd9\xa5"), 400),
        (with_fields(b"Content-Length: " + b"9" * 19), 400),
        (with_fields(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), 400),
        (with_fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
        (with_fields(b"Transfer-Encoding: chunked, chunked"), 400),
        (with_fields(b"Transfer-Encoding: ,chunked"), 400),
        (with_fields(b"Transfer-Encoding:"), 400),
        (with_fields(b"Transfer-Encoding: \x0bchunked"), 400),
        (with_fields(b"Transfer-Encoding: \xa0chunked"), 400),
        (with_fields(b"Transfer-Encoding: gzip, chunked"), 501),
        (with_fields(b"Transfer-Encoding: gzip"), 501),
        (with_fields(b"Transfer-Encoding: identity"), 501),
        (with_fields(b"Transfer-Encoding : chunked"), 400),
        (with_fields(b"Content-Length : 5"), 400),
        (with_fields(b"X: a", b" folded"), 400),
        (with_fields(b"X: a", b"\tfolded"), 400),
        (with_fields(b" X: a"), 400),
        (with_fields(b"X: a\nTransfer-Encoding: chunked"), 400),
        (with_fields(b"X: a\rTransfer-Encoding: chunked"), 400),
        (with_fields(b"X: a\0b"), 400),
        (with_fields(b"X: a\x7fb"), 400),
        (with_fields(b"X: a\x01b"), 400),
        (with_fields(b"X: a\x0cb"), 400),
        (with_fields(b"X\xe9: a"), 400),
        (with_fields(b"X"), 400),
        (with_fields(b": a"), 400),
        (with_fields(b"Host: other"), 400),
        (with_fields(b"Host: example.org"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:000080\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:\xb2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::1]:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::1]:65536\r\n\r\n", 400),
        (with_fields(start=b"GET http://a:/ HTTP/1.1"), 400),
        (with_fields(start=b"GET http://a:65536/ HTTP/1.1"), 400),
        (with_fields(start=b"M" * (METHOD_BYTES + 1) + b" / HTTP/1.1"), 501),
        (with_fields(start=b"M" * 4000 + b" / HTTP/1.1"), 501),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (with_fields(start=b"GET  / HTTP/1.1"), 400),
        (with_fields(start=b"GET / HTTP/1.1 "), 400),
        (with_fields(start=b"GET /a b HTTP/1.1"), 400),
        (with_fields(start=b"GET\t/ HTTP/1.1"), 400),
        (with_fields(start=b"GET /\xc3\xa9 HTTP/1.1"), 400),
        (with_fields(start=b"GET /a#b HTTP/1.1"), 400),
        (with_fields(start=b"GET a HTTP/1.1"), 400),
        (with_fields(start=b"GET * HTTP/1.1"), 400),
        (with_fields(start=b"GET ftp://a/ HTTP/1.1"), 400),
        (with_fields(start=b"GET http:// HTTP/1.1"), 400),
        (with_fields(start=b"GET http:///a HTTP/1.1"), 400),
        (with_fields(start=b"GET http://user@a/ HTTP/1.1"), 400),
        (with_fields(start=b"GET / http/1.1"), 400),
        (with_fields(start=b"GET / HTTP/1.1.1"), 505),
        (with_fields(start=b"GET / HTTP/1.\xb1"), 505),
        (with_fields(start=b"GET / HTTP/1.2"), 505),
        (with_fields(start=b"GET / HTTP/3.0"), 505),
        (with_fields(start=b"GET /"), 400),
        (with_fields(start=b"G(T / HTTP/1.1"), 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (with_fields(start=b"CONNECT example.org:443 HTTP/1.1"), 501),
        (with_fields(start=b"CONNECT / HTTP/1.1"), 501),
    ],
)
def test_refused(head: bytes, status: int) -> None:
    assert refused(head) == status


@pytest.mark.parametrize(
    ("head", "meaning"),
    [
        (with_fields(), about("/v2/", "", "example.org", 0)),
        (with_fields(b"content-LENGTH:\t 12 "), about("/v2/", "", "example.org", 12)),
        (with_fields(b"Content-Length: 0012"), about("/v2/", "", "example.org", 12)),
        (with_fields(b"Transfer-Encoding: Chunked"), about("/v2/", "", "example.org", None)),
        (with_fields(b"X-Content-Length: 5", b"X:"), about("/v2/", "", "example.org", 0)),
        (with_fields(b"X: content-length: 5, \xe9"), about("/v2/", "", "example.org", 0)),
        (with_fields(start=b"GET /a%2Fb?c?d=%20 HTTP/1.1"), about("/a%2Fb", "c?d=%20", "example.org", 0)),
        (with_fields(start=b"GET //a HTTP/1.1"), about("//a", "", "example.org", 0)),
        (with_fields(start=b"OPTIONS * HTTP/1.1"), about("*", "", "example.org", 0)),
        (with_fields(start=b"OPTIONS http://b HTTP/1.1"), about("*", "", "b", 0)),
        (with_fields(start=b"GET HTTP://b:81?x HTTP/1.1"), about("/", "x", "b:81", 0)),
        (with_fields(start=b"GET https://[::1]:81/a?x HTTP/1.1"), about("/a", "x", "[::1]:81", 0)),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", about("/", "", "", 0)),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", about("/", "", "[::1]:80", 0)),
        (b"GET / HTTP/1.1\r\nHost: a:1\r\n\r\n", about("/", "", "a:1", 0)),
        (b"GET / HTTP/1.1\r\nHost: a:65535\r\n\r\n", about("/", "", "a:65535", 0)),
        (with_fields(start=b"M" * METHOD_BYTES + b" / HTTP/1.1"), about("/", "", "example.org", 0)),
        (b"GET / HTTP/1.0\r\n\r\n", about("/", "", "", 0, modern=False, persists=False)),
        (
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n",
            about("/", "", "", 0, modern=False, persists=False),
        ),
        (with_fields(b"Connection: keep-alive"), about("/v2/", "", "example.org", 0)),
        (with_fields(b"Connection: a", b"connection:b,\tCLOSE"), about("/v2/", "", "example.org", 0, persists=False)),
        (with_fields(b"Expect: 100-Continue"), about("/v2/", "", "example.org", 0, expectation=CONTINUE)),
        (with_fields(b"Expect: 100-continue", b"expect: tea"), about("/v2/", "", "example.org", 0, expectation=b"tea")),
        (with_fields(b"Expect:"), about("/v2/", "", "example.org", 0, expectation=b"")),
    ],
)
def test_accepted(head: bytes, meaning: dict[str, object]) -> None:
    checked = check(head, LIMITS)
    assert {name: getattr(checked, name) for name in meaning} == meaning
    fuzz.assert_h11_agrees(head, checked)


@pytest.mark.parametrize(
    ("head", "usual"),
    [
        (with_fields(b"Content-Length: 5", b"Connection: close", b"X-Upgrade: 1", b"Range: bytes=0-"), True),
        (with_fields(b"Transfer-Encoding: chunked"), False),
        (with_fields(b"expect: 100-continue"), False),
        (with_fields(b"Upgrade: h2c"), False),
        (with_fields(start=b"GET http://example.org/ HTTP/1.1"), False),
        (with_fields(start=b"GET / HTTP/1.0"), False),
    ],
)
def test_what_is_unusual_is_for_h11(head: bytes, usual: bool) -> None:
    assert check(head, LIMITS).usual == usual


def test_sizes() -> None:
    limits = Limits(head_count=3, target_bytes=20)
    assert check(with_fields(b"A: b", b"C: d"), limits).length == 0
    assert refused(with_fields(b"A: b", b"C: d", b"E: f"), limits) == 431
    assert refused(with_fields(start=b"GET /" + b"a" * 20 + b" HTTP/1.1"), limits) == 414
    assert check(with_fields(start=b"GET /" + b"a" * 19 + b" HTTP/1.1"), limits).path == "/" + "a" * 19


def test_target_of_other_methods() -> None:
    assert split_target(b"GET", b"/x?").query == ""
    with pytest.raises(HeadError):
        split_target(b"DELETE", b"*")


def feed(stream: bytes, cuts: list[int], limits: Limits = LIMITS) -> tuple[list[bytes], bytes]:
    """The heads in a stream that comes in pieces, and what is left."""
    buffer = HeadBuffer(limits)
    heads = []
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        buffer.feed(stream[start:stop])
        while (head := buffer.next_head()) is not None:
            heads.append(head)
    return heads, buffer.take(len(buffer))


@given(st.lists(st.integers(0, 10_000), max_size=30), st.integers(0, EMPTY_LINES))
def test_heads_are_found_wherever_the_stream_is_cut(cuts: list[int], empty: int) -> None:
    one, two = with_fields(b"A: b"), with_fields(b"C: d\xff", start=b"GET /2 HTTP/1.1")
    assert feed(b"\r\n" * empty + one + b"\r\n" + two + b"GET /3", cuts) == ([one, two], b"GET /3")


def test_a_method_that_is_not_too_long_is_waited_for() -> None:
    longest = with_fields(start=b"M" * METHOD_BYTES + b" / HTTP/1.1")
    assert feed(longest, list(range(200))) == ([longest], b"")


def test_byte_by_byte() -> None:
    one = with_fields(b"A: b")
    assert feed(b"\r\n" + one + one, list(range(200))) == ([one, one], b"")


def test_content_is_taken_and_put_back() -> None:
    one = with_fields()
    buffer = HeadBuffer(LIMITS)
    buffer.feed(one + b"content" + one)
    assert buffer.next_head() == one
    assert buffer.take(20) == b"content" + one[:13]
    buffer.put_back(one[:13])
    assert buffer.next_head() == one
    assert not buffer


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"\x16\x03\x01", 400),  # TLS
        (b" GET", 400),
        (b"\n", 400),
        (b"\rG", 400),
        (b"GET / HTTP/1.1\nHost", 400),
        (b"\r\n" * (EMPTY_LINES + 1), 400),
        (b"GET /" + b"a" * LIMITS.target_bytes * 2, 414),
        (b"M" * (METHOD_BYTES + 1), 501),
        (b"M" * LIMITS.head_bytes * 2, 501),
        (b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * LIMITS.head_bytes, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * LIMITS.head_bytes + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * LIMITS.head_bytes + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_refused_before_the_head_is_whole(stream: bytes, status: int) -> None:
    for cuts in ([], [len(stream) // 2], [len(stream) - 1]):
        with pytest.raises(HeadError) as caught:
            feed(stream, cuts)
        assert caught.value.status == status


def test_a_head_of_exactly_the_allowed_size() -> None:
    filler = b"A: " + b"b" * (LIMITS.head_bytes - len(with_fields(b"A: ")))
    head = with_fields(filler)
    assert len(head) == LIMITS.head_bytes
    assert feed(head, list(range(0, len(head), 1000))) == ([head], b"")
    with pytest.raises(HeadError):
        feed(with_fields(filler + b"b"), [])


def test_searching_is_not_quadratic() -> None:
    """A head that comes byte by byte costs each byte once: `find` must not begin at the front again."""
    buffer = HeadBuffer(Limits(head_bytes=2_000_000))
    buffer.feed(b"GET / HTTP/1.1\r\nA: ")
    buffer.next_head()
    for _ in range(20):
        buffer.feed(b"b" * 50_000)
        assert buffer.next_head() is None
        assert buffer._searched == len(buffer)


@given(st.binary(max_size=300))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    for head in (data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        try:
            meaning = check(head, LIMITS)
        except HeadError:
            continue
        fuzz.assert_h11_agrees(head, meaning)


def test_mutants_mean_the_same_to_h11() -> None:
    accepted, refusals = fuzz.run(20_000, seed=3)
    assert accepted > 3_000  # the mutants are near enough to requests
    assert refusals > 2_000

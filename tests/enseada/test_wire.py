"""How answers are written: what h11 reads back is what was meant, and nothing breaks out of its place."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.http import Headers, Response
from enseada.wire import AnswerError, AnswerWriter, wire_name

NAMES = st.sampled_from([b"etag", b"content-type", b"oci-tag", b"www-authenticate", b"x", b"link"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)


def read(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes, h11.Connection]:
    """An answer, whole, as h11 reads it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Response)
    content = b""
    while isinstance(event := connection.next_event(), h11.Data):
        content += event.data
    assert isinstance(event, h11.EndOfMessage)
    return head, content, connection


@given(
    status=st.sampled_from([200, 206, 404, 503, 799]),
    raw=st.lists(st.tuples(NAMES, VALUES)),
    pieces=st.lists(st.binary(max_size=30), max_size=5),
    known=st.booleans(),
    close=st.booleans(),
)
def test_what_is_written_is_read(
    status: int, raw: list[tuple[bytes, bytes]], pieces: list[bytes], known: bool, close: bool
) -> None:
    writer = AnswerWriter()
    content = b"".join(pieces)
    written = writer.head(
        Response(status, Headers(raw)), len(content) if known else None, "id", content=True, close=close, chunks=True
    )
    assert writer.begun
    for piece in pieces:
        written += b"".join(writer.content(piece))
    written += writer.end()
    assert writer.ended
    head, got, connection = read(written)
    assert (head.status_code, got) == (status, content)
    fields = list(head.headers)
    assert fields[: len(raw)] == raw
    assert dict(fields)[b"x-request-id"] == b"id"
    assert (b"content-length" in dict(fields)) == known
    assert connection.their_state is (h11.MUST_CLOSE if close else h11.DONE)


@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("length", [None, 0, 12])
def test_head_is_all_there_is(status: int, length: int | None) -> None:
    """HEAD, 204 and 304 have no content, whatever their heads say."""
    if status == 204:
        length = None
    writer = AnswerWriter()
    written = writer.head(Response(status), length, "id", content=False, close=False, chunks=True) + writer.end()
    head, content, _ = read(written, "HEAD" if status == 200 else "GET")
    assert (head.status_code, content) == (status, b"")
    assert written.endswith(b"\r\n\r\n")
    # RFC 9110 8.6, RFC 9112 6.1: neither field in a 204; in a 304 none that GET's answer would not have had.
    assert (b"Transfer-Encoding" in written) == (status == 200 and length is None)


def test_no_chunks_for_those_who_do_not_know_them() -> None:
    writer = AnswerWriter()
    written = writer.head(Response(200), None, "id", content=True, close=True, chunks=False)
    assert b"Transfer-Encoding" not in written
    assert writer.content(b"abc") == (b"abc",)
    assert writer.end() == b""


CONTROLS = [bytes([octet]) for octet in range(256) if (octet < 0x20 and octet != 0x09) or octet == 0x7F]


@pytest.mark.parametrize("value", [b"a\r\nX: b", b"a\n", b"a\n\r", b"a\r\n\r\n<html>", *CONTROLS])
def test_nothing_breaks_out_of_its_line(value: bytes) -> None:
    writer = AnswerWriter()
    with pytest.raises(AnswerError):
        writer.head(Response(200, Headers([(b"x", value)])), 0, "id", content=True, close=False, chunks=True)
    assert not writer.begun
    assert writer.head(Response(500), 0, "id", content=True, close=False, chunks=True).startswith(b"HTTP/1.1 500 ")


def test_values_are_sent_as_they_are() -> None:
    """RFC 9110 5.5: all but control characters, and the tab."""
    value = b"\t".join(bytes([octet]) for octet in range(256) if bytes([octet]) not in CONTROLS)
    head = AnswerWriter().head(Response(200, Headers([(b"x", value)])), 0, "id", content=True, close=False, chunks=True)
    assert b"\r\nX: %b\r\n" % value in head


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xe9"])
def test_names_are_names(name: bytes) -> None:
    with pytest.raises(AnswerError):
        AnswerWriter().head(Response(200, Headers([(name, b"v")])), 0, "id", content=True, close=False, chunks=True)


@pytest.mark.parametrize("status", [0, 100, 199, 1000])
def test_status_is_final(status: int) -> None:
    with pytest.raises(AnswerError):
        AnswerWriter().head(Response(status), 0, "id", content=True, close=False, chunks=True)


def test_framing_is_ours_alone() -> None:
    forged = Headers([(b"content-length", b"5"), (b"Transfer-Encoding", b"chunked"), (b"CONNECTION", b"close")])
    written = AnswerWriter().head(Response(200, forged), 0, "id", content=True, close=False, chunks=True)
    assert written.count(b"Content-Length") == 1
    assert b"Content-Length: 0\r\n" in written
    assert b"Transfer-Encoding" not in written
    assert b"Connection" not in written


def test_an_answer_that_is_relayed_keeps_its_date_and_server() -> None:
    """There is one of each, and what names the request is ours alone."""
    relayed = {b"Date": b"Sun, 06 Nov 1994 08:49:37 GMT", b"Server": b"another/1.0"}
    for kept in ([], [b"Date"], [b"Server"], [b"Date", b"Server"], [b"Date", b"Date"]):
        raw = [(name.lower(), relayed[name]) for name in kept]
        response = Response(200, Headers([*raw, (b"x-request-id", b"another"), (b"x", b"y")]))
        written = AnswerWriter().head(response, 0, "id", content=True, close=False, chunks=True)
        head, _, _ = read(written)
        fields = list(head.headers)
        assert sorted(name for name, _ in fields) == [b"content-length", b"date", b"server", b"x", b"x-request-id"]
        assert dict(fields)[b"x-request-id"] == b"id"
        for name, value in relayed.items():
            assert (dict(fields)[name.lower()] == value) == (name in kept)
        assert dict(fields)[b"server"] in (b"enseada", b"another/1.0")


def test_content_is_as_long_as_was_said() -> None:
    writer = AnswerWriter()
    writer.head(Response(200), 5, "id", content=True, close=False, chunks=True)
    with pytest.raises(AnswerError):
        writer.content(b"123456")
    assert writer.content(b"1234") == (b"1234",)
    with pytest.raises(AnswerError):
        writer.end()
    assert not writer.ended
    writer.promise(1)
    with pytest.raises(AnswerError):
        writer.promise(1)
    assert writer.end() == b""


def test_spelling() -> None:
    names = {b"etag": b"ETag", b"oci-chunk-min-length": b"OCI-Chunk-Min-Length", b"content-type": b"Content-Type"}
    assert {name: wire_name(name) for name in names} == names

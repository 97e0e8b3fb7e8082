"""The chunked coding: wherever it is cut it means the same, h11 agrees, and nothing in it grows without bounds."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.protocols.http1.chunked import ChunkedDecoder, ChunkedError

EXTENSION, TRAILER = 64, 128


def decode(stream: bytes, cuts: list[int]) -> tuple[bytes, bytes | None]:
    """The content, and what follows the message; None: it has not ended. Raises ChunkedError."""
    decoder = ChunkedDecoder(EXTENSION, TRAILER)
    content = b""
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        data = memoryview(stream)[start:stop]
        content += b"".join(decoder.receive(data))
        if decoder.done:
            return content, stream[start + decoder.used :]
        assert decoder.used == len(data)
    return content, None


def h11_decode(stream: bytes) -> tuple[bytes, bytes | None]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + stream)
    connection.next_event()
    content = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.EndOfMessage):
            return content, connection.trailing_data[0]
        else:
            assert event is h11.NEED_DATA
            return content, None


EXTENSIONS = st.sampled_from([b"", b"", b"", b";", b";a", b';a="b c"', b"; a = b;c"])
TRAILERS = st.sampled_from([b"", b"", b"X: y\r\n", b"Digest:sha-256=\xff\r\nEmpty:\r\n"])
CUTS = st.lists(st.integers(0, 5000), max_size=40)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Content, and the same content coded."""
    content = coded = b""
    extensions = 0
    for piece in draw(st.lists(st.binary(min_size=1, max_size=70), max_size=6)):
        extension = draw(EXTENSIONS)
        if extensions + len(extension) > EXTENSION:
            extension = b""
        extensions += len(extension)
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"000%X"])) % len(piece)
        coded += size + extension + b"\r\n" + piece + b"\r\n"
        content += piece
    return content, coded + draw(st.sampled_from([b"0", b"000"])) + b"\r\n" + draw(TRAILERS) + b"\r\n"


@given(messages(), CUTS, st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"]))
def test_cut_anywhere_it_means_the_same(message: tuple[bytes, bytes], cuts: list[int], following: bytes) -> None:
    content, coded = message
    assert decode(coded + following, cuts) == (content, following)
    assert decode(coded + following, []) == (content, following)
    assert decode(coded + following, list(range(len(coded) + 1))) == (content, following)
    assert h11_decode(coded + following) == (content, following)


@given(messages(), st.integers(0, 5000))
def test_an_unfinished_message_is_not_done(message: tuple[bytes, bytes], cut: int) -> None:
    content, coded = message
    part, following = decode(coded[: cut % len(coded)], [])
    assert following is None
    assert content.startswith(part)


@given(
    messages(),
    st.lists(
        st.tuples(
            st.integers(0, 5000),
            st.integers(0, 2),
            st.sampled_from(
                [b"", b"\r", b"\n", b"\r\n", b";", b" ", b"0", b"g", b"_", b"+", b"-", b"\0", b"\xb2", b"1", b":"]
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    CUTS,
)
def test_never_accepts_what_h11_refuses(
    message: tuple[bytes, bytes], edits: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    coded = message[1]
    for at, remove, insert in edits:
        at %= len(coded) + 1
        coded = coded[:at] + insert + coded[at + remove :]
    try:
        ours = decode(coded, cuts)
    except ChunkedError:
        with pytest.raises(ChunkedError):
            decode(coded, [])
        return
    assert ours == decode(coded, [])
    assert ours == h11_decode(coded)


@pytest.mark.parametrize(
    "coded",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\rX\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5 ;a\r\nhello\r\n0\r\n\r\n",
        b"\xd9\xa5\r\nhello\r\n0\r\n\r\n",
        b"\r\n",
        b";a\r\n",
        b"f" * 16 + b"\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;a\0b\r\nhello\r\n0\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\ntransfer-encoding: chunked\r\n\r\n",
        b"0\r\n\n",
    ],
)
def test_malformed(coded: bytes) -> None:
    for cuts in ([], list(range(len(coded)))):
        with pytest.raises(ChunkedError):
            decode(coded, cuts)


@pytest.mark.parametrize(
    "coded",
    [
        b"5;" + b"a" * EXTENSION + b"\r\n",
        b"".join(b"1;aaaaaaa\r\nx\r\n" for _ in range(EXTENSION // 8 + 1)),
        b"0\r\n" + b"X: yyyyyyyyyy\r\n" * (TRAILER // 15 + 1),
        b"0\r\nX: " + b"y" * TRAILER,
        b"5;" + b"a" * (EXTENSION + 64),
        b"0" * (EXTENSION + 64),
    ],
)
def test_nothing_but_content_is_unbounded(coded: bytes) -> None:
    for cuts in ([], list(range(len(coded)))):
        with pytest.raises(ChunkedError):
            decode(coded, cuts)


@given(messages(), st.integers(1, 3))
def test_a_bound_on_chunks_only_postpones(message: tuple[bytes, bytes], bound: int) -> None:
    content, coded = message
    decoder = ChunkedDecoder(EXTENSION, TRAILER)
    left, received = memoryview(coded + b"next"), b""
    while not decoder.done:
        pieces = decoder.receive(left, bound)
        assert len(pieces) <= bound
        received += b"".join(pieces)
        left = left[decoder.used :]
    assert (received, bytes(left)) == (content, b"next")


def test_content_is_not_copied() -> None:
    memory = bytearray(b"5\r\nhello\r\n")
    [piece] = ChunkedDecoder(EXTENSION, TRAILER).receive(memoryview(memory))
    memory[3:8] = b"HELLO"
    assert bytes(piece) == b"HELLO"

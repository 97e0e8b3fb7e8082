"""Mutates request heads, and compares with h11 what we accept: ``python -m tests.protocols.http1.fuzz --cases N``.

One rule: what `head.check` accepts, h11 accepts, with the same method, target, fields and framing, and for as long.
"""

from __future__ import annotations

import argparse
import random

import h11

from enseada.limits import Limits
from enseada.protocols.http1.head import CONTINUE, Head, HeadError, check

LIMITS = Limits()
SEEDS = [
    b"GET /v2/ HTTP/1.1\r\nHost: localhost:5000\r\nUser-Agent: docker/27\r\nAccept-Encoding: gzip\r\n\r\n",
    b"PATCH /v2/a/blobs/x?_s=1 HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\nexpect: 100-continue\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: keep-alive, close\r\n\r\n",
    b"POST http://a.b:80/x?y HTTP/1.1\r\nhost:a\r\ncontent-length:0\r\nX-A: \xe9 , b\t\r\nUpgrade: h2c\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nContent-Length: 5\r\n\r\n",
]
LETTERS = [bytes([value]) for value in b"aZ09-._~!%$'*/?&=[]"]
PIECES = [
    *(bytes([value]) for value in range(256)),
    *(b"\r\n", b"\n", b"\r", b"\n\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b" :", b": ", b"::", b", ", b"\t ", b"\0"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"content-length:5,5\r\n", b"Content-Length: +5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:chunked \r\n", b"Transfer-Encoding: gzip\r\n"),
    *(b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding : chunked\r\n", b"Host: b\r\n", b"Host:\r\n", b"X:\r\n"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/0.9", b"HTTP/2.0", b"http://", b"CONNECT ", b"OPTIONS ", b"\xc2\xb2", b"1_0"),
    *(
        b"0x10",
        b"00",
        b"9" * 18,
        b"9" * 20,
        b"chunked",
        b"CHUNKED",
        b"chunked,chunked",
        b";q=1",
        b"\x0b",
        b"\x85",
        b"\xa0",
    ),
]


def assert_h11_agrees(head: bytes, meaning: Head) -> None:
    """Assert that h11 takes an accepted head whole, and for the same request."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert connection.trailing_data[0] == b""
    line = head[: head.index(b"\r\n")]
    assert line == event.method + b" " + event.target + b" HTTP/" + event.http_version
    assert meaning.method.encode("ascii") == event.method
    theirs = list(event.headers)
    ours = [(name, value.lower()) if name == b"transfer-encoding" else (name, value) for name, value in meaning.fields]
    assert ours == theirs
    length: int | None = 0
    for name, value in theirs:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            length = None
    assert length == meaning.length
    assert meaning.modern == (event.http_version == b"1.1")
    assert (meaning.expectation == CONTINUE) <= connection.they_are_waiting_for_100_continue
    # What h11 would do with content must be what was just concluded from its fields.
    following = connection.next_event()
    if length == 0:
        assert isinstance(following, h11.EndOfMessage)
    else:
        assert following is h11.NEED_DATA
        connection.receive_data(b"0\r\n\r\n" if length is None else b"x")
        after = connection.next_event()
        assert isinstance(after, h11.EndOfMessage if length is None else h11.Data)
    if connection.their_state in (h11.DONE, h11.MUST_CLOSE):
        assert meaning.persists == (connection.their_state is h11.DONE)
    hosts = [value.decode("latin-1") for name, value in theirs if name == b"host"]
    if event.target.startswith(b"/"):
        assert (meaning.path + "?" + meaning.query).rstrip("?") == event.target.decode().rstrip("?")
        assert meaning.host == (hosts[0] if hosts else "")
    elif event.target != b"*":
        assert f"://{meaning.host}".encode() in event.target


def mutant(choose: random.Random) -> bytes:
    """A head with one to three things wrong with it, or not."""
    head = choose.choice(SEEDS)
    for _ in range(choose.choice((1, 1, 1, 1, 2, 3))):
        at = choose.randrange(len(head) + 1)
        what = choose.randrange(5)
        if what == 0:
            head = head[:at] + choose.choice(choose.choice((PIECES, LETTERS))) + head[at:]
        elif what == 1:
            head = head[:at] + head[at + choose.randint(1, 4) :]
        elif what == 2:
            head = head[:at] + choose.choice(choose.choice((PIECES, LETTERS))) + head[at + 1 :]
        elif what == 3:
            # A whole line goes where a line begins.
            lines = head.split(b"\r\n")
            lines.insert(
                choose.randint(1, len(lines)), choose.choice(choose.choice((PIECES, LETTERS))).removesuffix(b"\r\n")
            )
            head = b"\r\n".join(lines)
        else:
            other = choose.choice(SEEDS)
            head = head[:at] + other[choose.randrange(len(other)) :]
    return head if head.endswith(b"\r\n\r\n") else head + b"\r\n\r\n"


def run(cases: int, seed: int) -> tuple[int, int]:
    """Try so many mutants; return how many were accepted and refused. Raises AssertionError at a disagreement."""
    choose = random.Random(seed)
    accepted = 0
    for _ in range(cases):
        head = mutant(choose)
        try:
            meaning = check(head, LIMITS)
        except HeadError:
            continue
        accepted += 1
        try:
            assert_h11_agrees(head, meaning)
        except Exception as error:
            raise AssertionError(f"h11 disagrees about {head!r}") from error
    return accepted, cases - accepted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare accepted mutants of request heads with h11.")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    print("accepted {}, refused {}".format(*run(options.cases, options.seed)))

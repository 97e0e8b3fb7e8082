"""The transports, over real sockets and memory streams: bytes, ends, failures, deadlines, and everybody's turn."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from enseada import transport as module
from enseada.limits import KIB, MIB
from enseada.transport import (
    BUDGET_ALONE,
    BUDGET_CROWDED,
    CROWD,
    WAKE_BYTES,
    Fairness,
    SocketTransport,
    StreamTransport,
    Transport,
    current_fairness,
    is_resident,
    read_ahead,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

GATHER_TIME = 1.0


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the event loop, in each of which every task that can run does so once."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    with client, server:
        yield client, server


@contextmanager
def unix_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    client, server = socket.socketpair()
    with client, server:
        yield client, server


@contextmanager
def pair(kind: str) -> Iterator[tuple[trio.abc.HalfCloseableStream, Transport]]:
    """The client's stream, and our transport."""
    if kind == "stream":
        ours, theirs = trio.testing.memory_stream_pair()
        yield ours, StreamTransport(theirs)
    elif kind == "tcp":
        with tcp_pair() as (client, server):
            yield trio.SocketStream(trio.socket.from_stdlib_socket(client)), SocketTransport(server)
    else:
        with unix_pair() as (client, server):
            yield trio.SocketStream(trio.socket.from_stdlib_socket(client)), SocketTransport(server)


KINDS = pytest.mark.parametrize("kind", ["tcp", "unix", "stream"])
SOCKETS = pytest.mark.parametrize("kind", ["tcp", "unix"])


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        data = await stream.receive_some(count - len(received))
        assert data
        received += bytes(data)
    return received


@KINDS
async def test_bytes_both_ways(kind: str) -> None:
    content = os.urandom(3 * MIB)
    with pair(kind) as (client, transport):
        buffer = memoryview(bytearray(100_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, content)
            received = b""
            while len(received) < len(content):
                count = await transport.receive_into(buffer, 10)
                received += bytes(buffer[:count])
        assert received == content
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: transport.send(content[:7], memoryview(content)[7:], b"", timeout=10))
            assert await receive_exactly(client, len(content)) == content
        await transport.send()
        await transport.send(b"")
        await client.send_eof()
        assert await transport.receive_into(buffer) == 0
        await transport.send(b"still")
        assert await receive_exactly(client, 5) == b"still"
        await transport.send_eof()
        assert await client.receive_some() == b""
        for _ in range(2):
            await transport.aclose()
        await transport.abort()


@KINDS
async def test_files(kind: str, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB + 17)
    (tmp_path / "file").write_bytes(content)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pair(kind) as (client, transport):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(transport.send_file, fd, 5, len(content) - 10, timeout=10))
                assert await receive_exactly(client, len(content) - 10) == content[5:-5]
            with pytest.raises(EOFError):
                await transport.send_file(fd, len(content) - 3, 4)
            assert await receive_exactly(client, 3) == content[-3:]
    finally:
        os.close(fd)


async def test_a_file_that_is_not_in_memory_is_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is told to forget the file; where it cannot, the answer of the probe is given for it."""
    content = os.urandom(3 * MIB)
    path = tmp_path / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR)
    ahead: list[tuple[int, int]] = []
    cold = {0}

    def resident(fd: int, start: int, count: int) -> bool:
        return start not in cold

    def watched(fd: int, start: int, count: int) -> None:
        ahead.append((start, count))
        cold.discard(start)
        read_ahead(fd, start, count)

    monkeypatch.setattr(module, "read_ahead", watched)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if is_resident(fd, 0, len(content)):
            monkeypatch.setattr(module, "is_resident", resident)
        with pair("tcp") as (client, transport):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.send_file, fd, 0, len(content))
                assert await receive_exactly(client, len(content)) == content
        assert ahead == [(0, len(content))]
        assert is_resident(fd, 0, len(content))
    finally:
        os.close(fd)


def test_reading_ahead_stops_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        read_ahead(fd, 0, MIB)
        assert is_resident(fd, 0, MIB)
    finally:
        os.close(fd)


def test_nothing_is_read_ahead_where_no_more_files_may_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"short")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        monkeypatch.setattr(os, "devnull", str(tmp_path / "missing"))
        read_ahead(fd, 0, MIB)
        assert os.read(fd, 9) == b"short"
    finally:
        os.close(fd)


@KINDS
async def test_a_peer_that_has_gone(kind: str) -> None:
    with pair(kind) as (client, transport):
        await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await transport.send(bytes(32 * MIB), timeout=10)
        await transport.aclose()


async def test_a_peer_that_has_gone_while_a_file_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8 * MIB))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pair("tcp") as (client, transport):
            await client.aclose()
            with pytest.raises(trio.BrokenResourceError):
                await transport.send_file(fd, 0, 8 * MIB, timeout=10)
    finally:
        os.close(fd)


async def test_an_abort_is_seen_as_a_failure() -> None:
    with pair("tcp") as (client, transport):
        await transport.send(b"x")
        await transport.abort()
        with pytest.raises(trio.BrokenResourceError):
            await receive_exactly(client, 2)


async def test_deadlines_are_for_one_wait(autojump_clock: trio.testing.MockClock) -> None:
    _ours, theirs = trio.testing.lockstep_stream_pair()
    transport = StreamTransport(theirs)
    with pytest.raises(trio.TooSlowError):
        await transport.receive_into(memoryview(bytearray(1)), 5)
    assert trio.current_time() == pytest.approx(5)
    with pytest.raises(trio.TooSlowError):
        await transport.send(b"x", timeout=5)
    assert trio.current_time() == pytest.approx(10)


@SOCKETS
async def test_deadlines_of_sockets(kind: str, tmp_path: Path) -> None:
    """Nobody reads and nobody writes: the shortest wait is already too long."""
    (tmp_path / "file").write_bytes(bytes(8 * MIB))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pair(kind) as (_, transport):
            with pytest.raises(trio.TooSlowError):
                await transport.receive_into(memoryview(bytearray(1)), 0.001)
            with pytest.raises(trio.TooSlowError):
                await transport.send_file(fd, 0, 8 * MIB, timeout=0.001)
            with pytest.raises(trio.TooSlowError):
                await transport.send(bytes(8 * MIB), timeout=0.001)
    finally:
        os.close(fd)


async def take(client: socket.socket, most: int, every: float) -> int:
    """Take up to ``most`` bytes of what is there every so many seconds, to the end; return how many they were."""
    taken = 0
    while True:
        await trio.sleep(every)
        left = most
        with suppress(BlockingIOError):
            while left:
                count = len(client.recv(left))
                if not count:
                    return taken
                taken += count
                left -= count


WHATS = pytest.mark.parametrize("what", ["file", "bytes"])
SIZE = 24 * MIB


@contextmanager
def sending(
    kind: str, what: str, folder: Path, *, ours: int | None = None, theirs: int | None = None
) -> Iterator[tuple[socket.socket, Transport, Callable[..., Any]]]:
    """The client's socket, our transport, and a call that sends it `SIZE` bytes; what the system buffers for each."""
    (folder / "file").write_bytes(bytes(SIZE))
    with tcp_pair() if kind == "tcp" else unix_pair() as (client, server), (folder / "file").open("rb") as file:
        client.setblocking(False)
        if theirs is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, theirs)
        if ours is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ours)
        transport = SocketTransport(server)
        if what == "file":
            yield client, transport, partial(transport.send_file, file.fileno(), 0, SIZE)
        else:
            yield client, transport, partial(transport.send, bytes(SIZE))


@SOCKETS
@WHATS
async def test_a_trickle_is_too_slow(
    kind: str, what: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Some bytes before every deadline: less than the least rate; what the system takes at first is no credit."""
    autojump_clock.autojump_threshold = 0.002
    with sending(kind, what, tmp_path, ours=1, theirs=1) as (client, _transport, send):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, client, 20_000, 50)
            with pytest.raises(trio.TooSlowError):
                await send(timeout=60, least_rate=1000)
            assert 60 <= trio.current_time() <= 5 * 60
            nursery.cancel_scope.cancel()


@SOCKETS
@WHATS
async def test_a_slow_peer_gets_all(
    kind: str, what: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Though it takes longer than any deadline, also until the system's buffer has room again."""
    autojump_clock.autojump_threshold = 0.002  # for what the system does between its two ends of a connection
    with sending(kind, what, tmp_path, theirs=128 * KIB) as (client, transport, send):
        async with trio.open_nursery() as nursery:

            async def all_of_it() -> None:
                await send(timeout=60, least_rate=128)
                await transport.aclose()

            nursery.start_soon(all_of_it)
            assert await take(client, 200_000, 30) == SIZE
            assert trio.current_time() > 10 * 60


@SOCKETS
@WHATS
@pytest.mark.parametrize("end", ["cancelled", "gone"])
async def test_what_was_sent_is_known_though_the_rest_was_not(kind: str, what: str, end: str, tmp_path: Path) -> None:
    with sending(kind, what, tmp_path) as (client, transport, send):
        async with trio.open_nursery() as nursery:
            received = 0
            scope = trio.CancelScope()

            async def receive() -> None:
                nonlocal received
                while received < SIZE // 3:
                    await trio.lowlevel.wait_readable(client)
                    received += len(client.recv(MIB))
                if end == "gone":
                    client.close()
                else:
                    scope.cancel()

            nursery.start_soon(receive)
            with scope, suppress(trio.BrokenResourceError):
                await send()
            assert SIZE // 3 <= transport.sent < SIZE
            if end == "cancelled":
                await transport.aclose()
                assert received + await take(client, SIZE, 0) == transport.sent


@SOCKETS
async def test_a_cancelled_read_takes_nothing(kind: str) -> None:
    with pair(kind) as (client, transport):
        buffer = memoryview(bytearray(10))
        await client.send_all(b"hello")
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.receive_into(buffer)
        assert scope.cancelled_caught
        with trio.move_on_after(0):
            await transport.receive_into(buffer)
        assert await transport.receive_into(buffer) == 5


@SOCKETS
async def test_others_get_their_turn(kind: str) -> None:
    """Bytes that are there need no wait; the turn is given up all the same before the budget is exceeded."""
    with pair(kind) as (client, transport):
        turns = 0
        done = False

        async def other() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await trio.lowlevel.checkpoint()

        buffer = memoryview(bytearray(1000))
        counted = {}
        for busy in (1, CROWD):
            current_fairness().busy = busy
            await client.send_all(bytes(64_000))
            turns, done = 0, False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                for _ in range(64):
                    await transport.receive_into(buffer)
                done = True
            counted[busy] = turns
        current_fairness().busy = 0
        # 64 calls are 64 * 9 KiB of work: no turn, and nine, of which the first and the last may not be seen.
        assert counted[1] <= 1
        assert counted[CROWD] >= 6


async def turns_given(during: Callable[[], Awaitable[object]]) -> int:
    """How often everybody else gets a turn before ``during`` is over."""
    rounds = Rounds()
    trio.lowlevel.add_instrument(rounds)
    try:
        await during()
    finally:
        trio.lowlevel.remove_instrument(rounds)
    return rounds.count


@SOCKETS
async def test_who_has_waited_need_not_wait_for_others_again(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8 * MIB))
    with pair(kind) as (client, transport), (tmp_path / "file").open("rb") as file:
        buffer = memoryview(bytearray(10))

        async def wait_for_content() -> None:
            with suppress(trio.TooSlowError):
                await transport.receive_into(buffer, 0.001)

        async def wait_for_room() -> None:
            with suppress(trio.TooSlowError):
                await transport.send_file(file.fileno(), 0, 8 * MIB, timeout=0.001)

        for _ in range(2):
            assert await turns_given(transport.let_others_run) == 1
        for wait in (wait_for_content, wait_for_room):
            await wait()
            assert await turns_given(transport.let_others_run) == 0
            assert await turns_given(transport.let_others_run) == 1
        # Right after sending, what would be the answer to it is waited for, also if there is something already.
        for turns in (0, 1):
            await client.send_all(b"0123456789")
            await transport.receive_into(buffer)
            assert await turns_given(transport.let_others_run) == turns


async def test_what_is_certain_to_come_is_waited_for_for_a_moment_only() -> None:
    """However long the rest may be waited for: what a client has sent is not left in the kernel."""
    with pair("tcp") as (client, transport):
        buffer = memoryview(bytearray(2 * WAKE_BYTES))
        receive = partial(transport.receive_into, buffer, 60, 4 * WAKE_BYTES, 0.01)
        for _ in range(3):
            await client.send_all(b"abc")
            await expect(receive, 3)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect, receive, 2)
                await trio.sleep(0.03)  # it waits for any byte by now
                await client.send_all(b"de")


async def test_what_is_certain_to_come_is_waited_for_together() -> None:
    """The packets of a slow client; but never longer than the timeout, nor beyond the end of the stream."""
    with pair("tcp") as (client, transport):
        buffer = memoryview(bytearray(2 * WAKE_BYTES))
        receive = partial(transport.receive_into, buffer, 5, 4 * WAKE_BYTES, GATHER_TIME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, receive, WAKE_BYTES)
            for _ in range(4):
                await trio.testing.wait_all_tasks_blocked()
                await client.send_all(bytes(WAKE_BYTES // 4))
        # With less to come than that, each packet counts.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, partial(transport.receive_into, buffer, 5, WAKE_BYTES - 1, GATHER_TIME), 7)
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(bytes(7))
        # A client that is slower than the timeout is not taken for one that sends nothing.
        await client.send_all(b"abc")
        assert await transport.receive_into(buffer, 0.01, 4 * WAKE_BYTES, GATHER_TIME) == 3
        with pytest.raises(trio.TooSlowError):
            await transport.receive_into(buffer, 0.01, 4 * WAKE_BYTES, GATHER_TIME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, receive, 3)
            await trio.testing.wait_all_tasks_blocked()
            await client.send_all(b"abc")
            await client.send_eof()
        await expect(receive, 0)


async def test_nothing_is_waited_for_together_where_nobody_asks_for_it() -> None:
    with pair("tcp") as (client, transport):
        receive = partial(transport.receive_into, memoryview(bytearray(2 * WAKE_BYTES)), 5, 4 * WAKE_BYTES)
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect, receive, 3)
                await trio.testing.wait_all_tasks_blocked()
                await client.send_all(b"abc")


async def expect(receive: Callable[[], Awaitable[int]], count: int) -> None:
    assert await receive() == count


def test_the_budget_shrinks_with_the_number_of_busy_connections() -> None:
    fairness = Fairness()
    budgets = []
    for fairness.busy in range(CROWD * 2):
        budgets.append(fairness.budget())
    assert budgets[:2] == [BUDGET_ALONE, BUDGET_ALONE]
    assert budgets == sorted(budgets, reverse=True)
    assert set(budgets[CROWD:]) == {BUDGET_CROWDED}

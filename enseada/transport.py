"""One connection's bytes, in and out: a raw non-blocking socket, or any trio stream.

The rule: try first, wait only when the kernel says so, and let others run before the work done since the last wait
exceeds the budget. The budget shrinks as more connections are busy, so that a small request never waits long for
many large ones.

A non-blocking `ssl.SSLSocket` will be a third transport behind the same interface.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import socket
import struct
import termios
from typing import Protocol

import trio

from enseada.limits import KIB, MIB

BUDGET_ALONE = 1 * MIB
"""Bytes moved between two checkpoints by the only busy connection (0.5 ms of hashing)."""
BUDGET_TOGETHER = 2 * MIB
"""Bytes moved by all busy connections in one round: as long as that takes a small request may wait."""
BUDGET_CROWDED = 64 * KIB
"""Bytes moved between two checkpoints when `CROWD` or more connections are busy, and the step of all budgets: a write
that ends in the midst of a page has the next one touch that page again."""
CROWD = BUDGET_TOGETHER // BUDGET_CROWDED
CALL_WORK = 8 * KIB
"""What a system call costs beside the bytes it moves, in bytes moved."""
WAKE_BYTES = 16 * KIB
"""Bytes that are waited for together, where so many are certain to come: a slow client's packets, which cost more to be
told of than to be taken. They lie in the kernel meanwhile, so that more would cost memory for each such client."""
SEND_STEP = 64 * KIB
"""Bytes of one write to a trio stream: its deadline is for so many."""
SENDFILE_STEP = 1 * MIB
"""Bytes of one sendfile call at most."""
SENDFILE_EASE = 8
"""So many times less than other bytes costs one that goes from a file to a socket: nobody copies or hashes it here."""
READ_AHEAD = 4 * MIB
"""Bytes that are waited for together where a file is not in memory: to go to a thread costs as much as to send some."""
FILE_STEP = 256 * KIB
"""Bytes read from a file at once where sendfile cannot be used."""


class Fairness:
    """How much the connections of one event loop may do before they let others run."""

    __slots__ = ("busy",)

    def __init__(self) -> None:
        self.busy = 0
        """Connections with a request under way."""

    def budget(self) -> int:
        """Bytes that one connection may move between two checkpoints."""
        if self.busy <= BUDGET_TOGETHER // BUDGET_ALONE:
            return BUDGET_ALONE
        return max(1, CROWD // self.busy) * BUDGET_CROWDED


_fairness: trio.lowlevel.RunVar[Fairness] = trio.lowlevel.RunVar("enseada.fairness")


def current_fairness() -> Fairness:
    """The running event loop's."""
    try:
        return _fairness.get()
    except LookupError:
        fairness = Fairness()
        _fairness.set(fairness)
        return fairness


class Transport(Protocol):
    """A connected byte stream. One task reads and writes at a time.

    A reading's ``timeout`` (seconds) is for one wait for the peer. A writing's is too, and never for the whole: a slow
    client that keeps moving is not cut. One that hardly moves is: in every ``timeout`` seconds in which it was waited
    for, it must have taken ``least_rate`` bytes a second. What fails because the peer has gone raises
    `trio.BrokenResourceError`; a wait that lasted too long `trio.TooSlowError`. After either, and after a cancelled
    write, only `aclose` and `abort` may be called; a cancelled read has taken nothing.
    """

    peer: str | None
    """The address of the peer, for the log; None where it has none (unix sockets)."""
    fairness: Fairness
    sent: int
    """Bytes sent until now: exact also after a failure or a cancellation, but some may never reach the peer."""

    async def receive_into(
        self, buffer: memoryview, timeout: float = math.inf, certain: int = 1, gather_time: float = 0.0
    ) -> int:
        """Receive what is there, at most as much as fits, and return how many bytes; 0 is the end of the stream.

        ``certain``: so many bytes will come, or the stream ends; some of them may be waited for together, for up to
        ``gather_time`` seconds.

        The bytes arrive in ``buffer`` in the same step in which this returns, so a buffer that is shared by several
        connections may be passed: nobody else runs in between.
        """
        ...

    async def send(self, *parts: bytes | memoryview, timeout: float = math.inf, least_rate: float = 0) -> None:
        """Send all of ``parts``, in one segment where that is possible."""
        ...

    async def send_file(
        self, fd: int, start: int, count: int, *, timeout: float = math.inf, least_rate: float = 0
    ) -> None:
        """Send ``count`` bytes of a file from ``start``. Raises EOFError if the file ends before, OSError from disk."""
        ...

    async def let_others_run(self) -> None:
        """Let others run, unless they could have since this was last called."""
        ...

    async def send_eof(self) -> None:
        """Tell the peer that no more will come. Where that cannot be told, nothing happens."""
        ...

    async def aclose(self) -> None:
        """Close; what was sent is still delivered. Safe any number of times."""
        ...

    async def abort(self) -> None:
        """Close so that the peer sees a failure: never mistaken for the end of a message. Safe any number of times."""
        ...


class SocketTransport:
    """A connected, non-blocking TCP or unix socket, which it owns."""

    __slots__ = (
        *("_least", "_others_ran", "_sent_last", "_socket", "_taken", "_waited", "_work"),
        *("fairness", "peer", "sent"),
    )

    def __init__(self, connected: socket.socket, peer: str | None = None) -> None:
        connected.setblocking(False)
        self._socket = connected
        self.peer = peer
        self.fairness = current_fairness()
        self._work = 0  # bytes moved since this task last let others run
        self._others_ran = False
        self._sent_last = False
        self._least = 1  # SO_RCVLOWAT, as a new socket has it
        self.sent = 0
        self._waited = 0.0  # seconds of waiting for the peer to take what is sent, since it was last looked at
        self._taken = 0  # what it had taken then

    async def receive_into(
        self, buffer: memoryview, timeout: float = math.inf, certain: int = 1, gather_time: float = 0.0
    ) -> int:
        left, late = timeout, False
        together = gather_time if certain >= WAKE_BYTES else 0.0
        if self._sent_last:
            # Whoever gets what was just sent has most likely not answered it yet: to try first would be in vain.
            late = not await self._wait_for_data(left, together)
        else:
            await self._keep_budget()
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                if late:
                    if not together or left <= together:
                        raise trio.TooSlowError from None
                    left, together = left - together, 0.0
                late = not await self._wait_for_data(left, together)
            except OSError as error:
                raise trio.BrokenResourceError("the peer has gone") from error
            else:
                self._work += count + CALL_WORK
                return count

    async def send(self, *parts: bytes | memoryview, timeout: float = math.inf, least_rate: float = 0) -> None:
        left = [memoryview(part) for part in parts]
        self._sent_last = True
        while left:
            await self._keep_budget()
            try:
                count = self._socket.send(left[0]) if len(left) == 1 else self._socket.sendmsg(left)
            except BlockingIOError:
                await self._wait_for_room(timeout, least_rate)
                continue
            except OSError as error:
                raise trio.BrokenResourceError("the peer has gone") from error
            self.sent += count
            self._work += count + CALL_WORK
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if count:
                left[0] = left[0][count:]

    async def send_file(
        self, fd: int, start: int, count: int, *, timeout: float = math.inf, least_rate: float = 0
    ) -> None:
        stop = start + count
        self._sent_last = True
        while start < stop:
            await self._keep_budget()
            step = min(stop - start, SENDFILE_STEP, self.fairness.budget() * SENDFILE_EASE)
            if not is_resident(fd, start, step):
                await trio.to_thread.run_sync(read_ahead, fd, start, min(stop - start, READ_AHEAD))
                self._begin_turn()
            try:
                sent = os.sendfile(self._socket.fileno(), fd, start, step)
            except BlockingIOError:
                await self._wait_for_room(timeout, least_rate)
                continue
            except OSError as error:
                if error.errno == errno.EIO:  # the disk's, not the peer's
                    raise
                raise trio.BrokenResourceError("the peer has gone") from error
            if not sent:
                raise EOFError("the file is shorter than it was said to be")
            self.sent += sent
            self._work += sent // SENDFILE_EASE + CALL_WORK
            start += sent

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError("the peer has gone") from error

    async def aclose(self) -> None:
        self._close()
        await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        if self._socket.fileno() >= 0 and self._socket.family != socket.AF_UNIX:
            # A linger time of zero makes close send a reset instead of an orderly end (socket(7)).
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def let_others_run(self) -> None:
        if self._others_ran:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._work = 0
            await trio.lowlevel.checkpoint()
        self._others_ran = False

    async def _keep_budget(self) -> None:
        if self._work >= self.fairness.budget():
            self._begin_turn()
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _wait_for_data(self, timeout: float, together: float) -> bool:
        """Wait until there is something to be received, or, for ``together`` seconds, for enough of it; False: not in
        time, but then there may be a little.
        """
        self._begin_turn()
        self._sent_last = False
        least = WAKE_BYTES if together else 1
        if least != self._least:
            self._least = least
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        if together:
            timeout = min(timeout, together)
        # A scope costs as much as the waiting, and `trio.fail_after` as much again.
        if timeout == math.inf:
            await trio.lowlevel.wait_readable(self._socket)
            return True
        with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
            await trio.lowlevel.wait_readable(self._socket)
        return not scope.cancelled_caught

    def _begin_turn(self) -> None:
        self._work = 0
        self._others_ran = True

    async def _wait_for_room(self, timeout: float, least_rate: float) -> None:
        """Wait until the kernel takes more. Raises TooSlowError.

        What counts is what the peer has acknowledged: the kernel's buffer takes megabytes from us at once, and has
        room again only when a third of it is free, which is long after a slow peer has begun to move.
        """
        self._begin_turn()
        while True:
            began = trio.current_time()
            with trio.move_on_after(max(0.0, timeout - self._waited)) as scope:
                await trio.lowlevel.wait_writable(self._socket)
            self._waited += trio.current_time() - began
            if self._waited >= timeout:
                taken = self.sent - unacknowledged(self._socket)
                if taken - self._taken <= least_rate * self._waited:
                    raise trio.TooSlowError
                self._waited, self._taken = 0.0, taken
            if not scope.cancelled_caught:
                return


def unacknowledged(connected: socket.socket) -> int:
    """Bytes sent that the peer's system has not taken yet; 0 where ours cannot tell (tcp(7), unix(7): SIOCOUTQ)."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)


def is_resident(fd: int, start: int, count: int) -> bool:
    """Whether a read of these bytes can be expected not to wait for the disk. Looks at both ends of the range.

    True also where the platform or the file system cannot tell (preadv2(2), RWF_NOWAIT).
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return True
    probe = [bytearray(1)]
    try:
        for position in (start, start + count - 1):
            os.preadv(fd, probe, position, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read_ahead(fd: int, start: int, count: int) -> None:
    """Wait until a range of a file is in memory. Blocks: for a thread. Raises OSError.

    Sent to nowhere, it is read as any file is that somebody reads from one end to the other: in large pieces, of which
    the next is asked for before it is needed, and copied by nobody. To ask for it by posix_fadvise(2) costs several
    times the CPU, since Linux then makes room for one page at a time.
    """
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return  # perhaps too many files are open: then whoever sends it waits for the disk
    try:
        stop = start + count
        while start < stop and (sent := os.sendfile(nowhere, fd, start, stop - start)):
            start += sent
    finally:
        os.close(nowhere)


class StreamTransport:
    """Any trio stream, which it owns: for hosts that bring their own, and for tests.

    A stream does not tell how much of one write the peer has taken, so that a write is small and each has to be taken
    within its ``timeout``: that is its least rate, whatever was asked for.
    """

    __slots__ = ("_stream", "fairness", "peer", "sent")

    def __init__(self, stream: trio.abc.Stream, peer: str | None = None) -> None:
        self._stream = stream
        self.peer = peer
        self.fairness = current_fairness()
        self.sent = 0

    async def receive_into(
        self, buffer: memoryview, timeout: float = math.inf, certain: int = 1, gather_time: float = 0.0
    ) -> int:
        try:
            with trio.fail_after(timeout):
                data = await self._stream.receive_some(len(buffer))
        except trio.ClosedResourceError as error:
            raise trio.BrokenResourceError("the stream was closed") from error
        buffer[: len(data)] = data
        return len(data)

    async def send(self, *parts: bytes | memoryview, timeout: float = math.inf, least_rate: float = 0) -> None:
        data = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        for start in range(0, len(data), SEND_STEP):
            step = data[start : start + SEND_STEP]
            with trio.fail_after(timeout):
                await self._stream.send_all(step)
            self.sent += len(step)

    async def send_file(
        self, fd: int, start: int, count: int, *, timeout: float = math.inf, least_rate: float = 0
    ) -> None:
        stop = start + count
        while start < stop:
            data = await trio.to_thread.run_sync(os.pread, fd, min(stop - start, FILE_STEP), start)
            if not data:
                raise EOFError("the file is shorter than it was said to be")
            await self.send(data, timeout=timeout)
            start += len(data)

    async def let_others_run(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # sending and receiving have

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def abort(self) -> None:
        await trio.aclose_forcefully(self._stream)

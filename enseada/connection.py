"""One connection: requests in, answers out, one after the other.

The rule: the loop never guesses where a message ends. What cannot be framed is refused and the connection closed;
what breaks off is cut so that the other side sees it. h11 is asked about every head that says more than most; content
passes by it.

Deadlines are for single waits. Those for a head move the deadline of the connection's one cancel scope; the others
are the transport's, and cost nothing where it need not wait.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import h11
import trio

from enseada import wire
from enseada.answer import CLOSE_TIMEOUT, close_all, content_length, first_piece, has_no_content, instead, is_content
from enseada.exchange import Exchange, Record, new_id
from enseada.http import BodyError, Content, Headers, Request, Response
from enseada.limits import KIB, MIB, Limits
from enseada.logs import mask_path
from enseada.protocols.http1.head import CONTINUE, Head, HeadBuffer, HeadError, check
from enseada.requestbody import SHARED_BYTES, RequestBody, SharedBuffer
from enseada.transport import StreamTransport
from enseada.wire import AnswerWriter, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from enseada.http import Handler
    from enseada.transport import Transport

logger = logging.getLogger("enseada.server")

HEAD_READ = 4 * KIB
"""Bytes read at once while a head is expected: small, so that content stays in the kernel until it is asked for."""
JOIN_BYTES = 16 * KIB
"""Up to here the parts of one write are copied together, which is cheaper than a scattered write."""
LINGER_BYTES = 16 * MIB
"""Bytes that are thrown away, at most, so that a client that is still sending gets its answer and not a reset."""


_NO_HEAD = Head("-", "-", "", [], "", 0)
"""Stands for a head that was refused."""


class Ending:
    """What the connections of one server have in common: when it ends, the idle ones close at once."""

    def __init__(self) -> None:
        self.begun = False
        self.idle: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """Close idle connections; every answer from now on is the last of its connection."""
        self.begun = True
        for scope in self.idle:
            scope.cancel()


_shared: trio.lowlevel.RunVar[SharedBuffer] = trio.lowlevel.RunVar("enseada.shared_buffer")


def shared_buffer() -> SharedBuffer:
    """The running event loop's."""
    try:
        return _shared.get()
    except LookupError:
        shared = SharedBuffer()
        _shared.set(shared)
        return shared


async def serve_connection(
    transport: Transport | trio.abc.Stream,
    handler: Handler,
    *,
    limits: Limits | None = None,
    scheme: str = "http",
    on_exchange: Callable[[Exchange], None] | None = None,
    ending: Ending | None = None,
) -> None:
    """Serve one connection to its end, and close it.

    ``transport`` may be any trio stream. ``limits``: what the client may ask of us; None: the defaults. ``scheme`` is
    that of the URLs by which clients reach us; ``on_exchange`` is called after each request, and must neither block nor
    raise; ``ending`` is shared by the connections of one server. A client that goes away is no error. Cancelled: the
    request under way is cancelled, its answer cut, and the connection closed.
    """
    if isinstance(transport, trio.abc.Stream):
        transport = StreamTransport(transport)
    connection = _Connection(transport, handler, limits or Limits(), scheme, on_exchange, ending or Ending())
    try:
        await connection.serve()
    except _ClientGone:
        pass
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await (transport.abort() if connection.answer_is_cut else transport.aclose())


class _ClientGone(Exception):
    """There is nobody to write to, or nobody who reads."""


class _SourceBroken(Exception):
    """The content of an answer broke off after its head was sent."""


class _Connection:
    def __init__(
        self,
        transport: Transport,
        handler: Handler,
        limits: Limits,
        scheme: str,
        on_exchange: Callable[[Exchange], None] | None,
        ending: Ending,
    ) -> None:
        self.transport = transport
        self.limits = limits
        self.shared = shared_buffer()
        self.received = HeadBuffer(limits)
        self._handler = handler
        self._scheme = scheme
        self._on_exchange = on_exchange
        self._ending = ending
        self._writer = AnswerWriter()
        self._closing = False
        self._scope = trio.CancelScope()
        self._head_begun = False

    @property
    def answer_is_cut(self) -> bool:
        """Whether an answer has been begun and not ended."""
        return self._writer.begun and not self._writer.ended

    async def serve(self) -> None:
        with self._scope:
            await self._loop()
        if self._scope.cancelled_caught and self._head_begun:
            await self._refuse(HeadError(408, f"the head took longer than {self.limits.head_timeout:g} seconds"))

    async def _loop(self) -> None:
        while True:
            try:
                head = await self._next_request()
                if head is None:
                    return
            except HeadError as error:
                await self._refuse(error)
                return
            except h11.RemoteProtocolError as error:  # no such case is known: see tests/protocols/http1/fuzz.py
                await self._refuse(HeadError(400, str(error)))
                return
            if not await self._exchange(head):
                return

    async def _next_request(self) -> Head | None:
        raw = await self._read_head()
        if raw is None:
            return None
        head = check(raw, self.limits)
        return head if head.usual else head._replace(fields=_ask_h11(raw))

    # -- the head

    async def _read_head(self) -> bytes | None:
        """The next head; None: there is none, because the client or the server has ended."""
        scope, received = self._scope, self.received
        head = received.next_head()
        if head is not None:
            await self.transport.let_others_run()
            return head
        self._head_begun = len(received) > 0
        if not self._head_begun:
            if self._ending.begun:
                return None
            self._ending.idle.add(scope)
        scope.deadline = trio.current_time() + (
            self.limits.head_timeout if self._head_begun else self.limits.idle_timeout
        )
        try:
            while head is None:
                try:
                    count = await self.transport.receive_into(self.shared.memory[:HEAD_READ])
                except trio.BrokenResourceError:
                    return None
                if not count or (scope.cancel_called and not self._head_begun):
                    return None
                received.feed(self.shared.memory[:count])
                head = received.next_head()
                if head is None and not self._head_begun:
                    self._ending.idle.discard(scope)
                    scope.deadline = trio.current_time() + self.limits.head_timeout
                self._head_begun = True
        finally:
            self._ending.idle.discard(scope)
        scope.deadline = math.inf
        # Whoever waits for answers has let others run by waiting for the request, and pays nothing here. Requests that
        # lie ready, in our buffer or in the kernel's, cost our processor's time and their sender none: one a turn.
        await self.transport.let_others_run()
        return head

    async def _refuse(self, error: HeadError) -> None:
        """Answer a head that cannot be served, and end the connection."""
        self._scope.deadline = math.inf
        body = RequestBody(self, 0)
        request = Request("-", "-", "", Headers(), body, self._scheme, client=self.transport.peer, id=new_id())
        record = Record(request, body, trio.current_time(), error=str(error))
        response = plain(error.status, str(error))
        self._writer, self._closing = AnswerWriter(), True
        try:
            await self._send_answer(record, response, self._head(record, response, _NO_HEAD), b"", None)
        finally:
            self._report(record)
        await self._linger()

    # -- one exchange

    async def _exchange(self, head: Head) -> bool:
        """Serve one request; return whether the connection can take another."""
        body = RequestBody(self, head.length, head.expectation == CONTINUE)
        self._writer, self._closing = AnswerWriter(), not head.persists
        request = Request(
            head.method,
            head.path,
            head.query,
            Headers(head.fields),
            body,
            self._scheme,
            host=head.host or "localhost",
            client=self.transport.peer,
            id=new_id(),
        )
        record = Record(request, body, trio.current_time())
        fairness = self.transport.fairness
        fairness.busy += 1
        try:
            await self._answer(record, head)
        except (_ClientGone, _SourceBroken) as error:
            record.error = record.error or str(error)
            return False
        except BaseException as error:
            record.error = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "cancelled"
            raise
        finally:
            fairness.busy -= 1
            body.close()
            self._report(record)
        return await self._make_ready(body)

    async def _answer(self, record: Record, head: Head) -> None:
        response: Response | None = None
        rest: AsyncIterator[bytes] | None = None
        try:
            try:
                response = _unmet_expectation(head) or await self._handler(record.request)
                first, rest = await first_piece(record.request, response)
                begin = self._head(record, response, head)
            except Exception as error:
                broken, response = response, None
                await close_all(rest, broken and broken.body)
                response, first, rest = self._failure(record, error), b"", None
                begin = self._head(record, response, head)
            await self._send_answer(record, response, begin, first, rest)
        finally:
            await close_all(rest, response and response.body)

    def _failure(self, record: Record, error: Exception) -> Response:
        """What is said instead of an answer. Raises _ClientGone where there is nobody to say it to."""
        record.error, response = instead(record.request, error, record.body.error)
        if response is None:
            raise _ClientGone(record.error) from error
        return response

    def _must_close(self, record: Record) -> bool:
        """Whether the answer is the last, because the server ends or too much of the request would follow it."""
        body = record.body
        if self._ending.begun or body.error is not None:
            return True
        # Whoever waits for 100-continue may send the content after our answer, or not: nobody could tell.
        return not body.complete and (body.expects or body.least_left > self.limits.drain_bytes)

    def _head(self, record: Record, response: Response, head: Head) -> bytes:
        """The head of an answer, and whether the connection ends after it. Raises AnswerError if it cannot be sent."""
        self._closing = self._closing or self._must_close(record)
        return self._writer.head(
            response,
            content_length(record.request, response),
            record.request.id,
            content=not has_no_content(record.request, response),
            close=self._closing,
            chunks=head.modern,
        )

    async def _send_answer(
        self, record: Record, response: Response, head: bytes, first: bytes, rest: AsyncIterator[bytes] | None
    ) -> None:
        writer, content = self._writer, response.body
        record.status = response.status
        if isinstance(content, bytes) or has_no_content(record.request, response):
            begin = self.transport.sent + len(head)
            parts: tuple[bytes, ...] = (head,)
            if isinstance(content, bytes) and content and not has_no_content(record.request, response):
                parts = (head, *writer.content(content))
            try:
                await self._send(*parts)
            finally:
                record.bytes_out = max(0, self.transport.sent - begin)
            writer.end()
        elif rest is not None:
            await self._send_pieces(record, head, first, rest)
        elif is_content(content) and content.file is not None:
            await self._send(head)
            await self._send_file(record, content, content.file)

    async def _send_pieces(self, record: Record, head: bytes, first: bytes, rest: AsyncIterator[bytes]) -> None:
        writer = self._writer
        parts: list[bytes] = [head]
        piece: bytes | None = first
        try:
            while piece is not None:
                parts += writer.content(piece)
                await self._send(*parts)
                record.bytes_out += len(piece)
                parts = []
                piece = await anext(rest, None)
            end = writer.end()
        except _ClientGone:
            raise
        except Exception as error:  # its source failed, or it was longer or shorter than it had said
            raise self._broken(record, error) from error
        await self._send(end)

    async def _send_file(self, record: Record, content: Content, file: int) -> None:
        self._writer.promise(content.length)
        begin = self.transport.sent
        try:
            await self.transport.send_file(
                file,
                content.start,
                content.length,
                timeout=self.limits.write_timeout,
                least_rate=self.limits.min_rate,
            )
        except trio.BrokenResourceError as error:
            raise _ClientGone("the client has gone") from error
        except trio.TooSlowError as error:
            raise self._too_slow() from error
        except (OSError, EOFError) as error:
            raise self._broken(record, error) from error
        finally:
            record.bytes_out = self.transport.sent - begin
        self._writer.end()

    def _broken(self, record: Record, error: Exception) -> _SourceBroken:
        """The answer cannot be ended: cut the connection, so that nobody takes it for whole."""
        request = record.request
        logger.error("answer %s broke off: %s %s", request.id, request.method, mask_path(request.path), exc_info=error)
        return _SourceBroken(f"{type(error).__name__}: {error}")

    async def _send(self, *parts: bytes) -> None:
        size = sum(map(len, parts))
        if not size:
            return
        if len(parts) > 1 and size <= JOIN_BYTES:
            parts = (b"".join(parts),)
        try:
            await self.transport.send(*parts, timeout=self.limits.write_timeout, least_rate=self.limits.min_rate)
        except trio.BrokenResourceError as error:
            raise _ClientGone("the client has gone") from error
        except trio.TooSlowError as error:
            raise self._too_slow() from error

    def _too_slow(self) -> _ClientGone:
        return _ClientGone(f"the client took nothing, or too little, for {self.limits.write_timeout:g} seconds")

    def _report(self, record: Record) -> None:
        if self._on_exchange is None:
            return
        try:
            self._on_exchange(record.over(trio.current_time() - record.started))
        except Exception:
            logger.exception("on_exchange failed for request %s", record.request.id)

    # -- its content

    async def receive_content(self, most: int, certain: int) -> tuple[int, float]:
        """Receive content into the shared buffer: how many bytes, and the seconds that they were waited for.

        Raises BodyError.
        """
        size = min(most, SHARED_BYTES, self.transport.fairness.budget())
        began = trio.current_time()
        try:
            limits = self.limits
            memory = self.shared.memory[:size]
            count = await self.transport.receive_into(memory, limits.read_timeout, certain, limits.gather_time)
        except trio.BrokenResourceError as error:
            raise BodyError("the client has gone", None) from error
        except trio.TooSlowError as error:
            raise BodyError(f"no content came for {self.limits.read_timeout:g} seconds", 408) from error
        return count, trio.current_time() - began

    async def let_others_run(self) -> None:
        """Give up the turn."""
        await trio.lowlevel.checkpoint()

    async def say_continue(self) -> None:
        """Ask for the content, unless it is coming already or the answer has begun. Raises BodyError."""
        if self.received or self._writer.begun:
            return
        try:
            await self._send(wire.CONTINUE)
        except _ClientGone as error:
            raise BodyError(str(error), None) from error

    # -- after it

    async def _make_ready(self, body: RequestBody) -> bool:
        """Bring the connection to where the next head begins; False: it has to be closed."""
        if self._closing:
            if self._ending.begun or self.received or not body.complete:
                await self._linger()
            return False
        if not body.complete:
            drained = False
            with trio.move_on_after(self.limits.drain_timeout):
                drained = await body.drain(self.limits.drain_bytes)
            if not drained:
                await self._linger()
                return False
        return True

    async def _linger(self) -> None:
        """End our side, and read until the client ends its own: closing with bytes unread would send a reset, and a
        reset can destroy the answer on its way (RFC 9112 9.6)."""
        size = min(SHARED_BYTES, self.transport.fairness.budget())
        left = LINGER_BYTES
        with suppress(trio.BrokenResourceError), trio.move_on_after(self.limits.drain_timeout):
            await self.transport.send_eof()
            while left > 0:
                count = await self.transport.receive_into(self.shared.memory[:size])
                if not count:
                    return
                left -= count


def _ask_h11(raw: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a head, whole, as h11 reads them. Raises h11.RemoteProtocolError."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(raw)
    return list(cast(h11.Request, parser.next_event()).headers)


def _unmet_expectation(head: Head) -> Response | None:
    """RFC 9110 10.1.1: 417 for an expectation that is not 100-continue."""
    if head.expectation in (None, CONTINUE):
        return None
    return plain(417, "nothing but 100-continue can be expected")

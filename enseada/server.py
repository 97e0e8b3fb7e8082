"""Listeners: where clients come in, how many, and how it all ends.

The rule: nothing is cut that can end by itself. When the server ends, listeners close first, then idle connections;
requests under way have their grace, and only then are cancelled. Knows nothing of registries.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, TypeAlias

import trio

from enseada.connection import Ending, serve_connection
from enseada.limits import Limits
from enseada.listeners import (
    LOOKED_FOR,
    UNIX_MODE,
    Listener,
    ListenError,
    Target,
    adopt_socket,
    bind,
    parse,
    unknown_host,
)
from enseada.openfiles import connection_limit
from enseada.streamlistener import StreamListener
from enseada.transport import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from typing import Any

    from enseada.exchange import Exchange
    from enseada.http import Handler
    from enseada.transport import Transport

logger = logging.getLogger("enseada.server")

__all__ = ["AnyListener", "ListenError", "Listener", "adopt", "close_listeners", "open_listeners", "serve_http"]

ACCEPT_PAUSE = 0.1
"""Seconds without accepting after it failed, most likely because the system had no room for another connection."""
COMPLAINT_INTERVAL = 60.0
"""Seconds between two lines about that in the log."""
GRACE = 30.0
"""Seconds that requests under way have to finish when the server ends, unless another time is asked for."""
_NOT_OURS = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENONET"),
        *("ENOPROTOOPT", "EOPNOTSUPP", "EPERM", "EPROTO", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
)
"""accept(2): what is the matter with the new connection is told by accepting; the next may be well."""

AnyListener: TypeAlias = "Listener | StreamListener | socket.socket | trio.abc.Listener[Any]"
"""What can be served: our own listeners, and what a host hands in."""


def adopt(listener: AnyListener) -> Listener | StreamListener:
    """A listener of our own over what a host hands in: a bound socket, which listens from now on, or trio's."""
    if isinstance(listener, Listener | StreamListener):
        return listener
    if isinstance(listener, trio.abc.Listener):
        return StreamListener(listener)
    return adopt_socket(listener)


async def adopt_all(listeners: Iterable[AnyListener]) -> list[Listener | StreamListener]:
    """`adopt` each. Raises OSError for a socket that cannot listen, and then, as when cancelled, none is left open."""
    given = list(listeners)
    adopted: list[Listener | StreamListener] = []
    try:
        adopted.extend(map(adopt, given))
    except BaseException:
        with suppress(Exception):  # what matters is why
            await close_listeners([*adopted, *given[len(adopted) :]])
        raise
    return adopted


async def close_listeners(listeners: Iterable[AnyListener]) -> None:
    """Close all of them, also when cancelled or when one fails, whose error is raised then. Waits for nothing."""
    async with AsyncExitStack() as stack:
        for listener in listeners:
            if isinstance(listener, Listener | socket.socket):
                stack.callback(listener.close)
            else:
                stack.push_async_callback(_at_once, listener.aclose)


async def _at_once(close: Callable[[], Awaitable[None]]) -> None:
    """Close without waiting for anything, also when cancelled."""
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        await close()


async def open_listeners(addresses: Iterable[str], *, unix_mode: int = UNIX_MODE) -> list[Listener]:
    """Bind and listen on every address: ``HOST:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` or ``fd:NUMBER``.

    A host name may stand for several addresses, and port 0 for any free one. Raises ListenError, and then, as when
    cancelled, nothing is left open.
    """
    targets = []
    for address in addresses:
        parsed = parse(address)
        try:
            found = await trio.socket.getaddrinfo(parsed.host, parsed.port, **LOOKED_FOR) if parsed.host else ()
        except (OSError, UnicodeError) as error:
            raise unknown_host(address, parsed, error) from error
        targets.append(Target(address, parsed, found))
    return [listener for place in bind(targets, 1, unix_mode) for listener in place]


async def serve_http(
    handler: Handler,
    listeners: Iterable[AnyListener],
    *,
    limits: Limits | None = None,
    grace: float = GRACE,
    shutdown: trio.Event | None = None,
    scheme: str = "http",
    on_exchange: Callable[[Exchange], None] | None = None,
    interpose: Callable[[Transport], Transport] | None = None,
    task_status: trio.TaskStatus[Sequence[Listener | StreamListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve clients of ``listeners``, which it owns, until ``shutdown`` is set or it is cancelled.

    Raises OSError for a socket among ``listeners`` that cannot listen.

    ``handler`` is any ``async def handler(request: Request) -> Response``, called once for each request, for many at a
    time. ``listeners`` are what `open_listeners` opened, bound sockets, or trio's own (`trio.SSLListener`, one over
    memory streams); they are reported through ``task_status``, each with its ``address``. ``limits``: what a client may
    ask of us; None: the defaults. ``scheme`` is that of the URLs by which clients reach us, where a proxy in front of
    us speaks TLS. ``on_exchange`` is called after each request, and must neither block nor raise. ``interpose`` is
    given each connection's transport, in the task that serves it, and returns the one that is used.

    Either way it ends gracefully: the listeners close, idle connections close, and requests under way may go on for
    ``grace`` seconds, their answers being the last of their connections. What is left then is cancelled, and waited
    for: handlers and transports bound the time that this takes. With a ``grace`` of 0 they are cancelled at once, and
    so they are when it is cancelled after ``shutdown`` was set: whoever wishes twice does not want to wait.
    """
    adopted = await adopt_all(listeners)
    server = _Server(handler, limits or Limits(), scheme, on_exchange, interpose)
    wish = trio.Event()
    shielded = trio.CancelScope(shield=True)
    try:
        async with trio.open_nursery() as watching:
            watching.start_soon(_notice, trio.Event() if shutdown is None else shutdown, wish, shielded)
            # A cancellation from outside reaches `_notice` alone, and becomes the wish to end.
            with shielded:
                async with trio.open_nursery() as connections:
                    with trio.CancelScope() as accepting:
                        async with trio.open_nursery() as acceptors:
                            for listener in adopted:
                                acceptors.start_soon(server.accept, listener, connections)
                            task_status.started(adopted)
                            await wish.wait()
                            accepting.cancel()
                    await close_listeners(adopted)
                    server.ending.begin()
                    shielded.deadline = trio.current_time() + grace
            watching.cancel_scope.cancel()
    finally:
        await close_listeners(adopted)


async def _notice(shutdown: trio.Event, wish: trio.Event, shielded: trio.CancelScope) -> None:
    """Until cancelled: make either wish known, and cancel what is ``shielded`` when both have come."""
    try:
        await shutdown.wait()
        wish.set()
        await trio.sleep_forever()
    finally:
        wish.set()
        if shutdown.is_set():
            shielded.cancel()


class _Server:
    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        scheme: str,
        on_exchange: Callable[[Exchange], None] | None,
        interpose: Callable[[Transport], Transport] | None,
    ) -> None:
        self.ending = Ending()
        self._handler = handler
        self._limits = limits
        self._scheme = scheme
        self._on_exchange = on_exchange
        self._interpose = interpose
        self._room = trio.Semaphore(connection_limit(limits.connections))
        self._complained = -math.inf

    async def accept(self, listener: Listener | StreamListener, connections: trio.Nursery) -> None:
        """Accept connections, and serve each in a task of ``connections``, until cancelled."""
        while True:
            transport = await self._accept_one(listener)
            scheme = listener.scheme if isinstance(listener, StreamListener) else "http"
            scheme = self._scheme if scheme == "http" else scheme
            connections.start_soon(self._serve, transport, scheme)

    async def _accept_one(self, listener: Listener | StreamListener) -> Transport:
        """The next connection, with room for it: `_serve` gives that back."""
        while True:
            try:
                if isinstance(listener, Listener):
                    return await self._accept_with_room(listener.socket)
                return await self._accept_and_hold(listener)
            except OSError as error:
                if error.errno in _NOT_OURS:
                    await trio.lowlevel.checkpoint()
                else:
                    self._complain(error)
                    await trio.sleep(ACCEPT_PAUSE)

    async def _accept_with_room(self, listening: socket.socket) -> Transport:
        """A listener keeps no room while it waits for a client: where there is little, another may need it."""
        while True:
            await self._room.acquire()
            try:
                accepted = listening.accept()[0]
            except BlockingIOError:
                self._room.release()
            except BaseException:
                self._room.release()
                raise
            else:
                return SocketTransport(accepted, _peer(accepted))
            await trio.lowlevel.wait_readable(listening)

    async def _accept_and_hold(self, listener: StreamListener) -> Transport:
        """Whether a client is there shows only when it is accepted: one may wait for room in our hands."""
        transport = await listener.accept()
        try:
            await self._room.acquire()
        except BaseException:
            await _at_once(transport.abort)
            raise
        return transport

    def _complain(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            logger.warning("cannot accept connections: %s", error.strerror or error)

    async def _serve(self, transport: Transport, scheme: str) -> None:
        try:
            try:
                used = transport if self._interpose is None else self._interpose(transport)
            except BaseException:
                await transport.abort()
                raise
            await serve_connection(
                used,
                self._handler,
                limits=self._limits,
                scheme=scheme,
                on_exchange=self._on_exchange,
                ending=self.ending,
            )
        except Exception:
            logger.exception("a connection failed")
        finally:
            self._room.release()


def _peer(accepted: socket.socket) -> str | None:
    if accepted.family == socket.AF_UNIX:
        return None
    try:
        return str(accepted.getpeername()[0])
    except OSError:  # it has gone already; reading will tell
        return None

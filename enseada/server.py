"""Listeners: where clients come in, how many, and how it all ends.

The rule: nothing is cut that can end by itself. When the server ends, listeners close first, then idle connections;
requests under way have their grace, and only then are cancelled. Knows nothing of registries.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import resource
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import trio

from enseada.connection import Ending, serve_connection
from enseada.limits import Limits
from enseada.streamlistener import StreamListener, address_of
from enseada.transport import SocketTransport
from enseada.values import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from enseada.exchange import Exchange
    from enseada.http import Handler
    from enseada.transport import Transport

logger = logging.getLogger("enseada.server")

BACKLOG = 1024
"""Connections that the kernel completes and keeps for us."""
UNIX_MODE = 0o660
"""Mode of a unix socket, unless another is asked for."""
UNIX_PREFIX = "unix:"
ACCEPT_PAUSE = 0.1
"""Seconds without accepting after the system had no room for another connection."""
COMPLAINT_INTERVAL = 60.0
"""Seconds between two lines about that in the log."""
RESERVED_FILES = 64
"""File descriptors that are kept for everything but connections: listeners, stores, the log."""
FILES_A_CONNECTION = 2
"""File descriptors that a connection may need: its own, and the content's that it receives or sends."""
GRACE = 30.0
"""Seconds that requests under way have to finish when the server ends, unless another time is asked for."""
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class ListenError(Exception):
    """An address cannot be listened on. The message is a sentence for whoever gave the address."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket."""

    socket: socket.socket
    address: str
    """Where clients find it: ``http://127.0.0.1:9623``, or ``http+unix:///run/enseada.sock``."""
    path: str | None = None
    """The file of a unix socket."""
    scheme: ClassVar[str] = "http"
    """That of the URLs by which clients reach it, unless a proxy stands before us."""

    async def accept(self) -> SocketTransport:
        """The next connection. Raises OSError."""
        while True:
            try:
                accepted = self.socket.accept()[0]
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            else:
                return SocketTransport(accepted, _peer(accepted))

    def close(self) -> None:
        """Stop listening, and remove a unix socket's file. Safe any number of times."""
        if self.socket.fileno() >= 0:
            self.socket.close()
            if self.path is not None:
                with suppress(OSError):
                    os.unlink(self.path)

    async def aclose(self) -> None:
        """As `close`."""
        self.close()


AnyListener: TypeAlias = "Listener | StreamListener | socket.socket | trio.abc.Listener[Any]"
"""What can be served: our own listeners, and what a host hands in."""


def adopt(listener: AnyListener) -> Listener | StreamListener:
    """A listener of our own over what a host hands in: a bound socket, which listens from now on, or trio's."""
    if isinstance(listener, Listener | StreamListener):
        return listener
    if isinstance(listener, trio.abc.Listener):
        return StreamListener(listener)
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return Listener(listener, address_of(listener))


async def close_listeners(listeners: Iterable[Listener | StreamListener]) -> None:
    """Close all of them, also when cancelled."""
    for listener in listeners:
        await listener.aclose()


async def open_listeners(addresses: Iterable[str], *, unix_mode: int = UNIX_MODE) -> list[Listener]:
    """Bind and listen on every address: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``.

    A host name may stand for several addresses, and port 0 for any free one. Raises ListenError, and then, as when
    cancelled, nothing is left open.
    """
    listeners: list[Listener] = []
    try:
        for address in addresses:
            try:
                parsed = parse_address(address)
            except ValueError as reason:
                raise ListenError(f"{address!r} is no address: {reason}") from None
            if parsed.path is not None:
                listeners.append(_listen_unix(parsed.path, unix_mode))
                continue
            for family, resolved in await _resolve(parsed.host, parsed.port, address):
                listeners.append(_listen_tcp(family, resolved, address))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def _resolve(host: str, port: int, address: str) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {address}: {host} is not known ({_reason(error)})") from error
    # getaddrinfo may name an address more than once; the order is kept.
    return list(dict.fromkeys((family, (str(where[0]), int(where[1]))) for family, _, _, _, where in found))


def _listen_tcp(family: socket.AddressFamily, where: tuple[str, int], address: str) -> Listener:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by what is accepted: answers leave in one write each, and wait for no other.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise _explain(address, error) from error
    return Listener(listening, address_of(listening))


def _listen_unix(path: str, mode: int) -> Listener:
    path = os.path.abspath(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # Nobody may connect before the mode is the one that was asked for: without listen, connecting is refused.
        listening.bind(path)
        os.chmod(path, mode)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise _explain(UNIX_PREFIX + path, error) from error
    return Listener(listening, f"http+unix://{path}", path)


def _remove_stale(path: str) -> None:
    """Remove a socket's file that a server has left behind, and nothing else."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _explain(address: str, error: OSError) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"cannot listen on {address}: it is in use by another program")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ListenError(f"cannot listen on {address}: this user has no permission to")
    if error.errno == errno.EADDRNOTAVAIL:
        return ListenError(f"cannot listen on {address}: this machine has no such address")
    return ListenError(f"cannot listen on {address}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


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
    adopted = [adopt(each) for each in listeners]
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


def raise_file_limit() -> None:
    """Raise this process's limit of open files as far as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit(wanted: int) -> int:
    """How many connections may be open at once: ``wanted``, or as many as there are file descriptors for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    possible = max(1, (files - RESERVED_FILES) // FILES_A_CONNECTION)
    if possible < wanted:
        logger.info("%d connections at once rather than %d: %d files may be open", possible, wanted, files)
    return min(wanted, possible)


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
            await self._room.acquire()
            try:
                transport = await self._accept_one(listener)
            except BaseException:
                self._room.release()
                raise
            scheme = self._scheme if listener.scheme == "http" else listener.scheme
            connections.start_soon(self._serve, transport, scheme)

    async def _accept_one(self, listener: Listener | StreamListener) -> Transport:
        while True:
            try:
                return await listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._complain(error)
                    await trio.sleep(ACCEPT_PAUSE)
                else:
                    # accept(2): what is the matter with the new connection is told here; the next may be well.
                    await trio.lowlevel.checkpoint()

    def _complain(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            logger.warning("cannot accept connections: %s", error.strerror)

    async def _serve(self, transport: Transport, scheme: str) -> None:
        try:
            await serve_connection(
                self._interpose(transport) if self._interpose is not None else transport,
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

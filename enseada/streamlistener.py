"""A trio listener that a host hands in, as the server sees it: where it is, which scheme it speaks, who connects.

The rule: it is used as `trio.abc.Listener` has it, and nothing is asked of its streams but to be streams. What only
trio's own classes can tell, an address or a peer, is told where it is one of them.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from enseada.listeners import address_of
from enseada.transport import StreamTransport

if TYPE_CHECKING:
    from typing import Any

NOWHERE = "-"
"""The address of a listener that has none, or none that we know of."""


@dataclass(frozen=True, slots=True)
class StreamListener:
    """A `trio.abc.Listener`, which it owns."""

    listener: trio.abc.Listener[Any]

    @property
    def scheme(self) -> str:
        """That of the URLs by which clients reach it, as far as it shows."""
        return "https" if isinstance(self.listener, trio.SSLListener) else "http"

    @property
    def address(self) -> str:
        """Where clients find it: ``https://127.0.0.1:8443``; `NOWHERE` where that is not known."""
        inner = self.listener.transport_listener if isinstance(self.listener, trio.SSLListener) else self.listener
        return address_of(inner.socket, self.scheme) if isinstance(inner, trio.SocketListener) else NOWHERE

    async def accept(self) -> StreamTransport:
        """The next connection. Raises what the listener raises."""
        stream = await self.listener.accept()
        return StreamTransport(stream, _peer(stream))

    async def aclose(self) -> None:
        """Stop listening, without waiting for anything. Safe any number of times."""
        await trio.aclose_forcefully(self.listener)


def _peer(stream: trio.abc.Stream) -> str | None:
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if not isinstance(inner, trio.SocketStream) or inner.socket.family == socket.AF_UNIX:
        return None
    try:
        return str(inner.socket.getpeername()[0])
    except OSError:  # it has gone already; reading will tell
        return None

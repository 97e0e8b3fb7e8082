"""What was asked of the registry so far.

One rule: a request is on record before the registry sees it, and its status before a byte of the answer leaves; so a
client that has its answer finds both.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from enseada.http import Headers
from enseada.testing.rules import operation_of

if TYPE_CHECKING:
    from enseada.exchange import Exchange
    from enseada.http import Request
    from enseada.testing.rules import Operation

KEPT = 10_000
"""Requests that are remembered; the oldest are forgotten first."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request, as the registry saw it, and what became of it."""

    method: str
    """``-`` where the head could not be read."""
    path: str
    query: str
    headers: Headers
    status: int | None = None
    """What was answered; 499 if the connection ended before there was an answer; None while there is none yet."""
    bytes_in: int = 0
    """Content received, once it is over."""
    bytes_out: int = 0
    """Content sent, once it is over."""
    subject: str = "-"
    """Whose account it was, once it is over."""
    error: str | None = None
    """Why it broke off, if it did; a refusal is an answer like any other."""
    faults: tuple[str, ...] = ()
    """What the test has made happen to it: "refuse with 503"."""

    @property
    def operation(self) -> Operation | None:
        """What it was for; None where that is nothing of a registry's."""
        return operation_of(self.path)

    def __str__(self) -> str:
        target = self.path + (f"?{self.query}" if self.query else "")
        line = f"{self.method} {target} -> {self.status or 'no answer yet'}"
        why = [*self.faults, *([self.error] if self.error else [])]
        return line + (f" ({'; '.join(why)})" if why else "")


class Records:
    """The requests of one registry, in the order in which their heads arrived. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: OrderedDict[str, RecordedRequest] = OrderedDict()

    @property
    def all(self) -> list[RecordedRequest]:
        """What is on record now."""
        with self._lock:
            return list(self._requests.values())

    def begin(self, request: Request) -> None:
        """Record a request, whose head has been read."""
        headers = Headers(request.headers.raw)
        self._set(request.id, RecordedRequest(request.method, request.path, request.query, headers))

    def change(self, id: str, **fields: Any) -> None:
        """Set fields of a request that is on record."""
        with self._lock:
            known = self._requests.get(id)
            if known is not None:
                self._requests[id] = replace(known, **fields)

    def add_fault(self, id: str, what: str) -> None:
        """Note that a fault has happened to a request."""
        with self._lock:
            known = self._requests.get(id)
        if known is not None:
            self.change(id, faults=(*known.faults, what))

    def end(self, exchange: Exchange) -> None:
        """Complete what is on record: an ``on_exchange`` of the server's. Heads that were not read come only here."""
        with self._lock:
            known = self._requests.get(exchange.id)
        if known is None:
            known = RecordedRequest(exchange.method, exchange.path, exchange.query, Headers())
        self._set(
            exchange.id,
            replace(
                known,
                status=exchange.status,
                bytes_in=exchange.bytes_in,
                bytes_out=exchange.bytes_out,
                subject=exchange.subject,
                error=exchange.error,
            ),
        )

    def _set(self, id: str, request: RecordedRequest) -> None:
        with self._lock:
            self._requests[id] = request
            if len(self._requests) > KEPT:
                self._requests.popitem(last=False)

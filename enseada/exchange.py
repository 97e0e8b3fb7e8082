"""One request and its answer, as the log and the metrics see them."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from enseada.http import Request
    from enseada.requestbody import RequestBody

CLIENT_GONE = 499
"""The status that the log has for a request whose client did not wait for the answer."""


class Exchange(msgspec.Struct, frozen=True):
    """A request that is over, for the log and the metrics."""

    method: str
    """``-`` where the head was refused before there was a method."""
    path: str
    query: str
    status: int
    """What was answered; 499 if the client had gone, or the request was cancelled, before there was an answer."""
    bytes_in: int
    """Content received."""
    bytes_out: int
    """Content sent."""
    seconds: float
    """From the head's end to the answer's."""
    subject: str
    client: str | None
    id: str
    error: str | None
    """Why it went wrong, if it did; None also for refusals, which are answers like any other."""


@dataclass(slots=True)
class Record:
    """An exchange under way."""

    request: Request
    body: RequestBody
    started: float
    status: int = CLIENT_GONE
    bytes_out: int = 0
    error: str | None = None

    def over(self, seconds: float) -> Exchange:
        """What is told of it when it is over, ``seconds`` after its head."""
        request = self.request
        return Exchange(
            request.method,
            request.path,
            request.query,
            self.status,
            self.body.bytes_in,
            self.bytes_out,
            seconds,
            request.subject,
            request.client,
            request.id,
            self.error,
        )


_process = secrets.token_hex(4)
_count = itertools.count(secrets.randbits(24))


def new_id() -> str:
    """A request's id: different in every process, counted, and never a client's choice."""
    return f"{_process}{next(_count) & 0xFFFFFFFF:08x}"

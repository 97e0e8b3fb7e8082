"""Faults on demand: armed by the test, met by requests, counted.

One rule: the test's threads and the server's share what is here, and no lock of it is held while anybody waits for
anything else.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enseada.http import Headers
from enseada.testing.acts import (
    ChangeHeaders,
    Corrupt,
    CutAnswer,
    CutRequest,
    Hold,
    LoseAnswer,
    LoseRequest,
    Refuse,
    Truncate,
)
from enseada.testing.rules import Rule
from enseada.wire import CONNECTION_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from enseada.testing.acts import Act
    from enseada.testing.rules import Operation

WAIT_TIMEOUT = 30.0
"""Seconds that `Fault.wait` waits, unless it is told otherwise."""


class UnmetFaults(AssertionError):
    """A test is over, and faults that it armed were never met, or less often than they should have been."""


class Fault:
    """A fault that was armed. `Occasion`'s methods make it."""

    def __init__(self, rule: Rule, act: Act) -> None:
        self.rule = rule
        self.act = act
        self._changed = threading.Condition()
        self._matched = 0
        self._fired = 0

    @property
    def fired(self) -> int:
        """How many requests have met it. It is counted before their clients can see it."""
        with self._changed:
            return self._fired

    @property
    def is_met(self) -> bool:
        """Whether it has happened as often as it should: ``times``, or once where that is without end."""
        return self.fired >= (self.rule.times or 1)

    def wait(self, timeout: float = WAIT_TIMEOUT) -> None:
        """Wait until a request meets it, for ``timeout`` seconds at most. Raises TimeoutError.

        Blocks the thread: in an asynchronous test, call it in another one.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._fired, timeout):
                raise TimeoutError(f"no request met the fault within {timeout:g} seconds: {self}")

    def is_due(self, method: str, path: str) -> bool:
        """Count a request, if the rule matches it; whether it may meet the fault. For the server."""
        if not self.rule.matches(method, path):
            return False
        with self._changed:
            self._matched += 1
            return self.rule.is_due(self._matched, self._fired)

    def fire(self) -> bool:
        """Count that it happens, now; False: it must not, since it has happened often enough. For the server."""
        with self._changed:
            if not self.rule.is_left(self._fired):
                return False
            self._fired += 1
            self._changed.notify_all()
            return True

    def __str__(self) -> str:
        of = "" if self.rule.times is None else f" of {self.rule.times}"
        return f"{self.rule}: {self.act} (happened {self.fired}{of} times)"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


class HeldFault(Fault):
    """A fault that holds requests until it is released."""

    def __init__(self, rule: Rule, hold: Hold) -> None:
        super().__init__(rule, hold)
        self._hold = hold

    def release(self) -> None:
        """Let the requests go that are held, and those that come from now on. Safe any number of times."""
        self._hold.release()


class Faults:
    """The faults of one registry. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Fault] = []

    def on(
        self,
        method: str | None = None,
        operation: Operation | None = None,
        *,
        path: str | re.Pattern[str] | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> Occasion:
        """Say which requests shall meet a fault; a method of the answer says what it is, and arms it.

        ``method``: GET, PATCH, …; ``operation``: what it is for (`Operation`); ``path``: a regular expression that is
        found in the path. The requests that match all of them are counted from now; it happens to the ``nth``, or to
        the first after it to which it can, and so to ``times`` of them (None: to all). Every fault counts for itself.
        A request may meet several; the one that was armed first comes first, and those that it did not live to meet
        are still there for the next.

        Raises ValueError for what no request can be.
        """
        pattern = re.compile(path) if isinstance(path, str) else path
        return Occasion(Rule(method, operation, pattern, nth, times), self._arm)

    @property
    def armed(self) -> list[Fault]:
        """All, in the order in which they were armed."""
        with self._lock:
            return list(self._armed)

    @property
    def fired(self) -> list[Fault]:
        """Those that have happened, once or more often."""
        return [fault for fault in self.armed if fault.fired]

    @property
    def unmet(self) -> list[Fault]:
        """Those that have not happened, or less often than they should."""
        return [fault for fault in self.armed if not fault.is_met]

    def check(self) -> None:
        """Raise UnmetFaults if there are any."""
        unmet = self.unmet
        if unmet:
            raise UnmetFaults("no request met, or too few: " + "; ".join(map(str, unmet)))

    def clear(self) -> None:
        """Disarm all, and release what is held. What has begun to happen to a request goes on."""
        with self._lock:
            cleared, self._armed = self._armed, []
        for fault in cleared:
            if isinstance(fault, HeldFault):
                fault.release()

    def due(self, method: str, path: str) -> list[Fault]:
        """Count a request; the faults that it meets, in order. For the server."""
        with self._lock:
            return [fault for fault in self._armed if fault.is_due(method, path)]

    def _arm(self, fault: Fault) -> None:
        with self._lock:
            self._armed.append(fault)


@dataclass(frozen=True, slots=True)
class Occasion:
    """The requests that shall meet a fault. Each method arms one, and returns it."""

    rule: Rule
    arm: Callable[[Fault], None]

    # What happens before the registry sees the request: it never happened.

    def refuse(
        self,
        status: int = 503,
        *,
        code: str | None = None,
        message: str = "refused, as the test wants it",
        retry_after: int | str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> Fault:
        """Answer with an error, as a registry writes it: ``status`` (400 to 599) and ``code`` (None: the usual one).

        ``retry_after``: seconds, or a date as HTTP writes it. A 401 carries a challenge.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"{status} is no status of a refusal")
        fields = list(headers.items() if hasattr(headers, "items") else headers)
        if retry_after is not None:
            fields.append(("Retry-After", str(retry_after)))
        _check(fields)
        return self._armed(Refuse(status, code, message, tuple(fields)))

    def lose_request(self, *, reset: bool = False) -> Fault:
        """Close the connection without an answer. ``reset``: by a reset, as it is anyway if content is left unread."""
        return self._armed(LoseRequest(reset))

    def hold(self) -> HeldFault:
        """Do nothing, until it is released. `Fault.wait` returns when a request is being held."""
        fault = HeldFault(self.rule, Hold())
        self.arm(fault)
        return fault

    # What happens while the registry works on it, or when it has done so.

    def cut_request(self, after: int) -> Fault:
        """Reset the connection when ``after`` bytes of the request's content were received, and more come.

        The registry has then saved what it received: a client that comes back finds it (but never a first byte that
        is alone, since no Range could tell it from none). It cannot happen to content that is not longer, or that the
        registry does not want to its end.
        """
        return self._armed(CutRequest(_count(after)))

    def lose_answer(self, *, reset: bool = False) -> Fault:
        """Do what was asked for, and close the connection before a byte of the answer. ``reset``: by a reset."""
        return self._armed(LoseAnswer(reset))

    def cut_answer(self, after: int, *, reset: bool = False) -> Fault:
        """Close the connection when ``after`` bytes of the answer's content were sent, and there are more.

        ``reset``: by a reset, which may overtake bytes that were sent before. It cannot happen to content that is not
        longer.
        """
        return self._armed(CutAnswer(_count(after), reset))

    def truncate(self, after: int) -> Fault:
        """Send only ``after`` bytes of the answer's content, in an answer that is otherwise whole.

        It cannot happen to content that is not longer.
        """
        return self._armed(Truncate(_count(after)))

    def corrupt(self, at: int = 0) -> Fault:
        """Send another byte in place of the one at offset ``at`` of the answer's content.

        It cannot happen to content that has none there.
        """
        return self._armed(Corrupt(_count(at)))

    def change_headers(self, headers: Mapping[str, str | None]) -> Fault:
        """Give the answer these headers in place of its own; None removes one.

        Raises ValueError for those that are the connection's, X-Request-Id and what says where a message ends: cutting
        and truncating are other faults.
        """
        _check((name, value or "") for name, value in headers.items())
        return self._armed(ChangeHeaders(tuple(headers.items())))

    def _armed(self, act: Act) -> Fault:
        fault = Fault(self.rule, act)
        self.arm(fault)
        return fault


def _count(count: int) -> int:
    if count < 0:
        raise ValueError("a number of bytes is not negative")
    return count


def _check(fields: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError here rather than in the server for what cannot be sent."""
    for name, _ in Headers.of(fields).raw:
        if name in CONNECTION_FIELDS:
            raise ValueError(f"{name.decode()} is the connection's")

"""From a method and a path to a handler, and to the right that it needs.

A format is a prefix, a table of routes, and a dialect in which it refuses. The table says of every route which action
on which object it is; nobody is let through to a handler that did not ask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from enseada.http import RegistryError

if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from enseada.auth.policy import Action, Decision, Subject
    from enseada.http import BodyError, Request, Response

Params: TypeAlias = "Mapping[str, str]"
RouteHandler: TypeAlias = "Callable[[Request, Params, Subject], Awaitable[Response]]"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of a format's table.

    ``pattern`` is matched against the whole path after the prefix; its named groups become parameters. ``action`` on
    ``object`` (a text with ``{parameters}``) is the right that it needs; ``action`` None: whoever asks, known or not.
    ``open``: the handler finds out by itself who asks.
    """

    method: str
    pattern: re.Pattern[str]
    handler: RouteHandler
    action: Action | None = None
    object: str = ""
    open: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A request's route, found."""

    route: Route
    params: Params = field(default_factory=dict)

    @property
    def object(self) -> str:
        """The object on which the route's right is needed."""
        return self.route.object.format_map(self.params)


class Format(Protocol):
    """What the application needs of a package format."""

    prefix: str
    """The path under which it lives, without a slash at its end."""

    def route(self, request: Request) -> Call:
        """Find the request's route. Raises RegistryError: 404, 405 with Allow, or what is wrong with a name."""
        ...

    def deny(self, request: Request, call: Call | None, subject: Subject, decision: Decision) -> RegistryError:
        """The refusal for a subject that lacks the route's right, in the format's dialect, challenge included."""
        ...

    def broken(self, failure: BodyError, status: int) -> RegistryError:
        """The refusal of a request whose content broke off or was malformed."""
        ...

    def refuse(self, request: Request, failure: RegistryError) -> Response:
        """The answer that tells of a failure, in the format's dialect."""
        ...


class Table:
    """Routes, tried in order."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)

    def find(self, method: str, path: str) -> Call:
        """The first route that matches. Raises RegistryError: 404, or 405 with Allow if another method would do."""
        allowed: list[str] = []
        for route in self.routes:
            match = route.pattern.fullmatch(path)
            if match is not None:
                if route.method == method:
                    return Call(route, match.groupdict())
                allowed.append(route.method)
        if allowed:
            headers = [("Allow", ", ".join(sorted(set(allowed))))]
            raise RegistryError(405, "UNSUPPORTED", f"{method} is not supported here", headers=headers)
        raise RegistryError(404, "NOT_FOUND", "nothing is at this address")

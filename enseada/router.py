"""From a method and a path to a handler, and to the right that it needs.

A format is a prefix, a table of routes, and a dialect in which it refuses. The table says of every route which action
on which object it is; nobody is let through to a handler that did not ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

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
    ``open``: the handler finds out by itself who asks. ``next_to_last``: what the last segment but one is in every path
    that the pattern matches, if that is always the same; then the route is found by it, and not tried for other paths.
    """

    method: str
    pattern: re.Pattern[str]
    handler: RouteHandler
    action: Action | None = None
    object: str = ""
    open: bool = False
    next_to_last: str | None = None


class Call(NamedTuple):
    """A request's route, found."""

    route: Route
    params: Params

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
        self._anywhere = tuple(each for each in routes if each.next_to_last is None)
        fixed = {each.next_to_last for each in routes} - {None}
        self._by_segment = {
            segment: tuple(each for each in routes if each.next_to_last in (None, segment)) for segment in fixed
        }

    def find(self, method: str, path: str) -> Call:
        """The first route that matches. Raises RegistryError: 404, or 405 with Allow if another method would do."""
        allowed: list[str] = []
        stop = path.rfind("/")
        segment = path[path.rfind("/", 0, max(0, stop)) + 1 : stop] if stop > 0 else ""
        tried: re.Pattern[str] | None = None
        match: re.Match[str] | None = None
        for route in self._by_segment.get(segment, self._anywhere):
            if route.pattern is not tried:  # the same for several methods
                tried = route.pattern
                match = tried.fullmatch(path)
            if match is not None:
                if route.method == method:
                    return Call(route, match.groupdict())
                allowed.append(route.method)
        if allowed:
            headers = [("Allow", ", ".join(sorted(set(allowed))))]
            raise RegistryError(405, "UNSUPPORTED", f"{method} is not supported here", headers=headers)
        raise RegistryError(404, "NOT_FOUND", "nothing is at this address")

"""The scopes of the Docker token flow: what a token is asked for, what it grants, and the challenge that asks for it.

One rule: reading a scope grants nothing and refuses nothing. What is not understood is left out, so that a client of
another time still gets a token for the rest. Sources: distribution's docs/spec/auth/scope.md and token.md; RFC 6750 3;
RFC 9110 11.6.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enseada.protocols.oci.names import is_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_SCOPES = 64
"""Different resources in one request, so that the token for them still fits into a request's head."""
MAX_SCOPE_LENGTH = 1024
"""Characters of one scope; a longer one is left out."""

REPOSITORY = "repository"
REGISTRY = "registry"
CATALOG = "catalog"
PULL = "pull"
PUSH = "push"
DELETE = "delete"
ALL = "*"

_ORDER = (PULL, PUSH, DELETE, ALL)
_TYPE = re.compile(r"([a-z0-9]+)(?:\([a-z0-9]+\))?")
_HOST = re.compile(r"\A(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}/")
_UNQUOTABLE = re.compile(r"[^\t -~]")


class ScopeError(ValueError):
    """More is asked for than one token may hold."""


@dataclass(frozen=True, slots=True)
class Access:
    """Some actions on one resource: a scope that was read, or what a token allows at most."""

    type: str
    """``repository`` or ``registry``."""
    name: str
    """The image's whole name (``team/api/base``), or ``catalog``."""
    actions: frozenset[str]
    """Out of ``pull``, ``push``, ``delete`` and ``*``; for the registry only ``*``."""

    def sorted_actions(self) -> list[str]:
        """The actions in the order in which clients write them."""
        return sorted(self.actions, key=_ORDER.index)

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(self.sorted_actions())}"


def repository(name: str, *actions: str) -> Access:
    """Actions on an image: ``repository("team/api", PULL, PUSH)``."""
    return Access(REPOSITORY, name, frozenset(actions))


def catalog() -> Access:
    """Reading the list of all names: ``registry:catalog:*``."""
    return Access(REGISTRY, CATALOG, frozenset({ALL}))


def parse(scopes: Iterable[str]) -> tuple[Access, ...]:
    """What is asked for by the ``scope`` parameters of a request, in order, each resource once.

    A parameter holds one scope or several with spaces between them. A resource's class (``repository(plugin)``) and a
    host with a port before its name are left out. Raises ScopeError above `MAX_SCOPES`.
    """
    merged: dict[tuple[str, str], frozenset[str]] = {}
    for parameter in scopes:
        for text in parameter.split():
            access = _parse_one(text)
            if access is None:
                continue
            key = (access.type, access.name)
            merged[key] = merged.get(key, frozenset()) | access.actions
            if len(merged) > MAX_SCOPES:
                raise ScopeError(f"more than {MAX_SCOPES} scopes in one request")
    return tuple(Access(type, name, actions) for (type, name), actions in merged.items())


def _parse_one(text: str) -> Access | None:
    if len(text) > MAX_SCOPE_LENGTH:
        return None
    # A name may hold colons (a host's port), so the type is before the first one and the actions after the last.
    type_text, _, rest = text.partition(":")
    name, _, action_text = rest.rpartition(":")
    type_match = _TYPE.fullmatch(type_text)
    if type_match is None:
        return None
    known: tuple[str, ...]
    match type_match[1]:
        case "repository":
            name = _HOST.sub("", name)
            known = _ORDER if is_name(name) else ()
        case "registry":
            known = (ALL,) if name == CATALOG else ()
        case _:
            known = ()
    actions = frozenset(action_text.split(",")) & frozenset(known)
    return Access(type_match[1], name, actions) if actions else None


def format_scopes(accesses: Iterable[Access]) -> str:
    """The scopes as one parameter, with spaces between them."""
    return " ".join(str(access) for access in accesses)


def bearer_challenge(realm: str, service: str, accesses: Sequence[Access] = (), error: str | None = None) -> str:
    """The value of WWW-Authenticate that sends a client to the token endpoint at ``realm`` (an absolute URL).

    Several scopes (a mount's) go into one parameter. ``error`` is RFC 6750's (``invalid_token``,
    ``insufficient_scope``). Raises ValueError for what no header may hold.
    """
    params = [("realm", realm), ("service", service)]
    if accesses:
        params.append(("scope", format_scopes(accesses)))
    if error is not None:
        params.append(("error", error))
    return "Bearer " + ",".join(f"{name}={quote(value)}" for name, value in params)


def basic_challenge(realm: str) -> str:
    """The value of WWW-Authenticate that asks for name and password, in UTF-8 (RFC 7617 2, 2.1)."""
    return f'Basic realm={quote(realm)},charset="UTF-8"'


def quote(text: str) -> str:
    """``text`` as a quoted-string (RFC 9110 5.6.4). Raises ValueError for what no header may hold."""
    if _UNQUOTABLE.search(text):
        raise ValueError(f"not to be written in a header: {text!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""Which requests meet a fault: by method, by what they ask for, by path, and by how many came before.

One rule: a rule counts every request that matches it, in the order in which their heads arrive, whoever sent them and
whatever became of them. Pure: counts are arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from enseada.formats.docker_token import PATH as TOKEN_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

Operation: TypeAlias = Literal["ping", "token", "catalog", "tags", "referrers", "manifest", "upload", "blob"]
"""What a request is for, whatever its method; by its path (distribution-spec, "Endpoints")."""

OPERATIONS: tuple[Operation, ...] = get_args(Operation)

# In this order, since an upload's path is a blob's too.
_PATHS: Mapping[Operation, re.Pattern[str]] = {
    "ping": re.compile("/v2/?"),
    "token": re.compile(re.escape(TOKEN_PATH)),
    "catalog": re.compile("/v2/_catalog"),
    "tags": re.compile("/v2/.+/tags/list"),
    "referrers": re.compile("/v2/.+/referrers/[^/]+"),
    "manifest": re.compile("/v2/.+/manifests/[^/]+"),
    "upload": re.compile("/v2/.+/blobs/uploads(?:/[^/]*)?"),
    "blob": re.compile("/v2/.+/blobs/[^/]+"),
}


def operation_of(path: str) -> Operation | None:
    """What a request for ``path`` is for, or None where that is none of a registry's."""
    return next((operation for operation, pattern in _PATHS.items() if pattern.fullmatch(path)), None)


@dataclass(frozen=True, slots=True)
class Rule:
    """From the ``nth`` request that matches on, ``times`` of them (None: all). Raises ValueError for what never is.

    A request at which the fault cannot happen does not use it up: the next one that matches has it before it.
    """

    method: str | None = None
    """In upper case; None: any."""
    operation: Operation | None = None
    path: re.Pattern[str] | None = None
    """Searched in the path as it was sent."""
    nth: int = 1
    times: int | None = 1

    def __post_init__(self) -> None:
        if self.method is not None and self.method != self.method.upper():
            hint = f"operation={self.method!r}" if self.method in OPERATIONS else repr(self.method.upper())
            raise ValueError(f"{self.method!r} is no method: did you mean {hint}?")
        if self.operation is not None and self.operation not in OPERATIONS:
            raise ValueError(f"{self.operation!r} is no operation: choose one of {', '.join(OPERATIONS)}")
        if self.nth < 1:
            raise ValueError("the first request is number 1")
        if self.times is not None and self.times < 1:
            raise ValueError("a fault happens once at least")

    def matches(self, method: str, path: str) -> bool:
        """Whether such a request is counted."""
        return (
            (self.method is None or method == self.method)
            and (self.operation is None or operation_of(path) == self.operation)
            and (self.path is None or self.path.search(path) is not None)
        )

    def is_due(self, number: int, happened: int) -> bool:
        """Whether the ``number``-th of those that match may meet the fault, which has happened so often."""
        return number >= self.nth and self.is_left(happened)

    def is_left(self, happened: int) -> bool:
        """Whether it may happen once more."""
        return self.times is None or happened < self.times

    def __str__(self) -> str:
        what = " ".join([self.method or "any request", *([self.operation] if self.operation else [])])
        if self.path is not None:
            what += f" of {self.path.pattern}"
        return f"{what}, number {self.nth}" + ("" if self.times == 1 else " and on")

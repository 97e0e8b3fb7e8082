"""Whether a subject may do an action on an object, and why.

One rule: `Authorizer.decide` is the only place where that is decided. Whoever acts for a client asks it, afresh, for
every request, and no answer is kept.

Objects are texts: ``oci:team/api/base`` is an image by its whole name, ``registry:catalog`` the list of all names.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

CATALOG = "registry:catalog"
"""The object whose reading is listing the names of all images."""


class Action(StrEnum):
    """What can be done. None implies another."""

    READ = "read"
    WRITE = "write"
    """Add what was not there."""
    OVERWRITE = "overwrite"
    """Make a name mean something else: move a tag."""
    DELETE = "delete"
    MANAGE = "manage"


def image(name: str) -> str:
    """The object of an image, by its whole name."""
    return f"oci:{name}"


class Grant(msgspec.Struct, frozen=True):
    """What a token allows at most on one object."""

    object: str
    actions: frozenset[Action]


class Subject(msgspec.Struct, frozen=True):
    """Who asks, as was authenticated for this request."""

    name: str
    kind: Literal["anonymous", "user"]
    admin: bool = False
    scopes: tuple[Grant, ...] | None = None
    """What the token that was shown narrows the subject to; None: it showed no token."""
    generation: str = ""
    """Changes with the account's credentials: a token of an older generation is void."""

    def narrowed(self, scopes: tuple[Grant, ...] | None) -> Subject:
        """The same subject with a token's limits."""
        return msgspec.structs.replace(self, scopes=scopes)

    def unscoped(self) -> Subject:
        """The same subject without its token's limits: for what is the subject's own right, as a mount's source."""
        return self.narrowed(None)


ANONYMOUS = Subject("anonymous", "anonymous")


class Decision(msgspec.Struct, frozen=True):
    """The answer, and a sentence that names action and object and, where the answer is no, what was missing."""

    allowed: bool
    reason: str
    scope_missing: bool = False
    """The subject may, and only the token that it showed does not say so: another token would do."""

    def __bool__(self) -> bool:
        return self.allowed


class Authorizer:
    """The rules: an admin may do everything, and ``anonymous`` says what anybody may do, logged in or not."""

    def __init__(self, anonymous: Literal["none", "pull", "push"] = "none") -> None:
        self._anonymous = anonymous

    def decide(self, subject: Subject, action: Action, object: str) -> Decision:
        """May ``subject`` do ``action`` on ``object``? First the subject's own right is asked, then its token's."""
        if subject.admin:
            reason = f"{subject.name} is an admin and may {action} {object}"
        elif self._public(action, object):
            reason = f"anybody may {action} {object}"
        else:
            if subject.kind == "anonymous":
                return Decision(False, f"{action} on {object} is not allowed without logging in")
            return Decision(False, f"{subject.name} lacks the right to {action} {object}")
        if subject.scopes is not None and not any(
            grant.object == object and action in grant.actions for grant in subject.scopes
        ):
            missing = f"the token's scopes lack {action} on {object}"
            return Decision(False, missing, scope_missing=True)
        return Decision(True, reason)

    def _public(self, action: Action, object: str) -> bool:
        match self._anonymous:
            case "pull":
                return action is Action.READ and object.startswith("oci:")
            case "push":
                return action is not Action.MANAGE and (object.startswith("oci:") or object == CATALOG)
            case "none":
                return False

"""The scopes of Docker tokens in the terms of our policy.

One rule: what a scope means is said here once, for the token endpoint that grants it and for the request that shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enseada.auth.policy import CATALOG, Action, Grant, image
from enseada.protocols.oci import scopes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enseada.auth.policy import Authorizer, Subject
    from enseada.protocols.oci.scopes import Access

# Moving a tag is a push like any other to the clients, so the scope allows it at most; whether it is allowed is
# decided where it is done.
_MEANING: dict[str, frozenset[Action]] = {
    scopes.PULL: frozenset({Action.READ}),
    scopes.PUSH: frozenset({Action.WRITE, Action.OVERWRITE}),
    scopes.DELETE: frozenset({Action.DELETE}),
    scopes.ALL: frozenset(Action),
}
# What the subject must have the right to for the scope to be granted.
_NEEDED: dict[str, Action] = {scopes.PULL: Action.READ, scopes.PUSH: Action.WRITE, scopes.DELETE: Action.DELETE}


def object_of(access: Access) -> str:
    """The policy's object that a scope is about."""
    return image(access.name) if access.type == scopes.REPOSITORY else CATALOG


def grants(accesses: Iterable[Access]) -> tuple[Grant, ...]:
    """What a token with these scopes allows at most."""
    return tuple(
        Grant(object_of(access), frozenset().union(*(_MEANING[action] for action in access.actions)))
        for access in accesses
    )


def allowed(authorizer: Authorizer, subject: Subject, accesses: Iterable[Access]) -> tuple[Access, ...]:
    """Of the scopes asked for, those that the subject has a right to; ``*`` on an image becomes what is allowed."""
    left = []
    for access in accesses:
        object = object_of(access)
        if access.type == scopes.REGISTRY:
            actions = access.actions if authorizer.decide(subject, Action.READ, object) else frozenset()
        else:
            asked = access.actions
            if scopes.ALL in asked:
                if all(authorizer.decide(subject, action, object) for action in Action):
                    left.append(access)
                    continue
                asked = frozenset(_NEEDED)
            actions = frozenset(each for each in asked if authorizer.decide(subject, _NEEDED[each], object))
        if actions:
            left.append(scopes.Access(access.type, access.name, actions))
    return tuple(left)

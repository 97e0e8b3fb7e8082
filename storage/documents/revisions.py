"""Revision trees: what CouchDB keeps of a document, in one copy. Pure: no I/O, no clock, no randomness.

One rule: what is visible is a pure function of the tree, so that all who see the same leaves agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Kind(Enum):
    """What a revision is for."""

    PUT = "put"
    UNSEALED = "unsealed"
    """A unique document that nobody sees before its writer knows that it is the only one."""
    DELETE = "delete"
    WITHDRAW = "withdraw"
    """The end of a branch, by its own writer, who was not told that it had won."""
    RESOLVE = "resolve"
    """The end of a branch, by somebody who found more than one."""

    @property
    def deleted(self) -> bool:
        """Whether it ends its branch."""
        return self in (Kind.DELETE, Kind.WITHDRAW, Kind.RESOLVE)


@dataclass(frozen=True, slots=True)
class Edit:
    """What a writer asks of every copy: one more revision on ``parent`` (None: on nothing that lives)."""

    parent: str | None
    kind: Kind
    by: str
    """Random, so that no two writers make one revision; "" for what all who resolve must make alike."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision in a tree; ``rev`` is ``depth`` and a hash of its parent and content, as CouchDB makes it."""

    rev: str
    depth: int
    parent: str | None
    kind: Kind
    by: str
    life: str
    """The ``by`` of the revision that brought the document into being, after which all on its branch are named."""
    body: bytes

    @property
    def order(self) -> tuple[bool, int, str]:
        """The greatest leaf is the winner: those that live before the deleted ones, then depth, then the hash."""
        return not self.kind.deleted, self.depth, self.rev


Tree: TypeAlias = dict[str, Revision]


def revision(parent: Revision | None, edit: Edit) -> Revision:
    """The revision that ``edit`` makes of ``parent``. A creation begins a life, also on a tombstone."""
    depth = 1 if parent is None else parent.depth + 1
    content = "\0".join([parent.rev if parent else "", edit.kind.value, edit.by]).encode() + b"\0" + edit.body
    life = edit.by if parent is None or (parent.kind.deleted and edit.parent is None) else parent.life
    rev = f"{depth}-{blake2b(content, digest_size=12).hexdigest()}"
    return Revision(rev, depth, parent.rev if parent else None, edit.kind, edit.by, life, edit.body)


def leaves(tree: Tree) -> list[Revision]:
    """The revisions that nothing was built on, winner first."""
    parents = {revision.parent for revision in tree.values()}
    return sorted((leaf for rev, leaf in tree.items() if rev not in parents), key=lambda leaf: leaf.order, reverse=True)


def is_echo(tree: Tree, made: Revision) -> bool:
    """Whether a creation is one that went on, or was withdrawn, elsewhere.

    A creation names no revision: a copy that has a tombstone which the others do not have, or that hears of it late,
    builds on that one, so it makes another revision of it. Once the document went on from theirs, this one is no
    branch of its own.
    """
    if made.by != made.life or made.kind.deleted:
        return False
    others = [other for other in tree.values() if other.life == made.life and other is not made]
    if any(other.parent == made.rev and other.kind is not Kind.RESOLVE for other in others):
        return False
    return any(
        other.kind is Kind.WITHDRAW if other.by == made.by else other.kind not in (Kind.WITHDRAW, Kind.RESOLVE)
        for other in others
    )


def living(tree: Tree) -> list[Revision]:
    """The leaves that live, sealed or not, winner first, without echoes."""
    return [leaf for leaf in leaves(tree) if not leaf.kind.deleted and not is_echo(tree, leaf)]


def echoes(tree: Tree) -> list[Revision]:
    """The leaves that live but are echoes: nobody sees them, but they are in the way of another creation."""
    return [leaf for leaf in leaves(tree) if not leaf.kind.deleted and is_echo(tree, leaf)]


def visible(tree: Tree) -> list[Revision]:
    """The leaves that a reader may see, winner first."""
    return [leaf for leaf in living(tree) if leaf.kind is Kind.PUT]


def descends(tree: Tree, leaf: Revision, ancestors: Collection[str | None]) -> bool:
    """Whether ``leaf`` is one of the revisions ``ancestors`` or was built on one (None: on nothing)."""
    rev: str | None = leaf.rev
    while rev not in ancestors:
        if rev is None:
            return False
        rev = tree[rev].parent
    return True


def uncontested(tree: Tree, own: Iterable[Revision]) -> bool:
    """Whether nobody else can have been told that the revision on the same parent is theirs.

    A rival that its own writer has withdrawn was never acknowledged.
    """
    revs = {revision.rev for revision in own}
    parents = {tree[rev].parent for rev in revs}
    rivals = [other for other in tree.values() if other.parent in parents and other.rev not in revs]
    return all(_withdrawn(tree, rival) or is_echo(tree, rival) for rival in rivals)


def accept(tree: Tree, edit: Edit) -> Revision | None:
    """Add what ``edit`` makes to a copy's tree, as CouchDB does for a client; None: a conflict, nothing was added."""
    ends = leaves(tree)
    if edit.parent is None:
        parent = ends[0] if ends else None
        if parent is not None and not parent.kind.deleted:
            return None
    else:
        parent = next((leaf for leaf in ends if leaf.rev == edit.parent), None)
        if parent is None or (parent.kind.deleted and edit.kind.deleted):
            return None
    made = revision(parent, edit)
    tree[made.rev] = made
    return made


def _withdrawn(tree: Tree, rival: Revision) -> bool:
    children = [other for other in tree.values() if other.parent == rival.rev]
    return bool(children) and all(child.kind is Kind.WITHDRAW for child in children)

"""Three copies of documents and their coordinators, as of a CouchDB cluster: late, cut off, dying before they answer.

One rule: they promise what CouchDB 3.5 promises, and no more. Each copy takes an edit or refuses it by itself; two
that took the same revision are a yes (201), one is none (202), and its branch stays until somebody ends it. What a
client makes of such answers is no matter of theirs.

All chance comes from the ``random.Random`` that the caller gives, so a test can seed it or hand it to hypothesis.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from enseada.storage.documents import revisions
from enseada.storage.documents.base import Change, Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable
    from random import Random

    from enseada.storage.documents.revisions import Edit, Tree

COPIES = 3
QUORUM = 2
"""Copies that make a majority: for reading (r) and for writing (w)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often something goes wrong: chances between 0 and 1."""

    late: float = 0.0
    """An edit reaches a copy only after the writer was answered."""
    lost: float = 0.0
    """A coordinator dies on its way: nobody hears what it did, and perhaps some copies are never asked."""
    refused: float = 0.0
    """A request is refused by a coordinator, before it has done anything."""
    lag: float = 0.5
    """Per request, that a copy takes none of what is late, and that copies do not tell each other of a document."""


class Copy:
    """One of the copies."""

    def __init__(self) -> None:
        self.trees: dict[str, Tree] = {}
        self.late: list[tuple[str, Edit]] = []
        self.log: list[str] = []
        self.news = anyio.Event()

    def tree(self, id: str) -> Tree:
        """What it has of a document: yours to keep."""
        return dict(self.trees.get(id, {}))

    def edit(self, id: str, edit: Edit) -> str | None:
        """Take an edit; the revision that it made, or None for a conflict."""
        made = revisions.accept(self.trees.setdefault(id, {}), edit)
        if made is None:
            return None
        self._announce(id)
        return made.rev

    def merge(self, id: str, tree: Tree) -> None:
        """Take what another copy has, conflicts or not."""
        own = self.trees.setdefault(id, {})
        if not tree.keys() <= own.keys():
            own.update(tree)
            self._announce(id)

    def _announce(self, id: str) -> None:
        self.log.append(id)
        self.news.set()
        self.news = anyio.Event()


class Cluster:
    """The copies and whoever coordinates them, for a client to be built on.

    The client writes with `_edit` and asks a majority with `_read`; where one copy will do, it takes its `_turn` and
    asks `_any`. No rule of its own needs more. ``down`` holds the numbers (0, 1, 2) of the copies that cannot be
    reached; it and ``faults`` may be changed at any time.
    """

    def __init__(self, random: Random, faults: Faults, down: Iterable[int]) -> None:
        self.random = random
        self.faults = faults
        self.down = set(down)
        self.copies = [Copy() for _ in range(COPIES)]
        self._unequal: set[str] = set()
        self._closed = False

    @asynccontextmanager
    async def changes(self, since: str) -> AsyncIterator[AsyncIterator[Change]]:
        """See `DocumentStore.changes`. As late as the copy that is asked; in no order; they may come again."""
        await self._turn("changes")
        copy = self._any("changes")
        position = 0
        if since == "now":
            position = len(copy.log)
        elif since:
            number, _, text = since.partition("-")
            if self.copies.index(copy) == int(number):
                position = int(text)
        changes = self._follow(copy, position)
        try:
            yield changes
        finally:
            await changes.aclose()

    async def aclose(self) -> None:
        """See `DocumentStore.aclose`. Safe any number of times."""
        self._closed = True
        for copy in self.copies:
            copy.news.set()
        await anyio.lowlevel.checkpoint()

    async def settle(self) -> None:
        """Let all copies that can be reached take what is late and tell each other what they have."""
        await anyio.lowlevel.checkpoint()
        copies = self._up()
        for copy in copies:
            while copy.late:
                copy.edit(*copy.late.pop(0))
        for id in sorted(self._unequal):
            for copy in copies:
                for other in copies:
                    other.merge(id, copy.tree(id))
        if len(copies) == COPIES:
            self._unequal.clear()

    # What a coordinator does

    async def _edit(self, id: str, edit: Edit) -> str | None:
        """Send an edit to all copies. The revision: 201. None: 202, or nobody knows. Raises Conflict, Unavailable."""
        await self._turn(id)
        waiting = self._shuffled()
        if not waiting:
            raise Unavailable(id, "no copy can be reached")
        self._unequal.add(id)
        dies = self.random.randrange(len(waiting) + 1) if self._chance(self.faults.lost) else None
        made: list[str] = []
        late = False
        alive = False
        try:
            while waiting and len(waiting) != dies:
                await self._hop()
                copy = waiting.pop()
                if copy not in self._up():
                    late = True
                elif self._chance(self.faults.late):
                    copy.late.append((id, edit))
                    late = True
                elif (rev := copy.edit(id, edit)) is not None:
                    made.append(rev)
                    if made.count(rev) >= QUORUM:
                        break
            alive = dies is None
        finally:
            for copy in waiting:
                if alive or self._chance(0.5):
                    copy.late.append((id, edit))
        if dies is not None:
            return None
        for rev in made:
            if made.count(rev) >= QUORUM:
                return rev
        if not made and not late:
            raise Conflict(id, "the document exists" if edit.parent is None else "the document was changed or deleted")
        return None

    async def _read(self, id: str, *, everywhere: bool = False) -> tuple[Tree, bool]:
        """Ask a majority for all leaves, or all that can be reached. If they differ, tell each what the others have.

        Also tells whether they agreed. Then nothing else was or will be acknowledged on what they all have closed.
        Raises Unavailable.
        """
        await self._turn(id)
        asked: list[Copy] = []
        trees: list[Tree] = []
        for copy in self._shuffled():
            await self._hop()
            if copy in self._up():
                asked.append(copy)
                trees.append(copy.tree(id))
            if len(trees) == QUORUM and not everywhere and _agree(trees):
                return trees[0], True
        if len(trees) >= QUORUM and _agree(trees):
            return trees[0], True
        merged: Tree = {}
        for tree in trees:
            merged.update(tree)
        told = 0
        for copy in asked:
            await self._hop()
            if copy in self._up():
                copy.merge(id, merged)
                told += 1
        if told < QUORUM:
            raise Unavailable(id, "no majority can be reached")
        return merged, False

    async def _turn(self, id: str) -> None:
        """The beginning of every request: time passes, and copies catch up. Raises Unavailable, ClosedResourceError."""
        await self._hop()
        if self._closed:
            raise anyio.ClosedResourceError
        copies = self._up()
        for copy in copies:
            while copy.late and not self._chance(self.faults.lag):
                copy.edit(*copy.late.pop(self.random.randrange(len(copy.late))))
        if len(copies) > 1 and self._unequal and not self._chance(self.faults.lag):
            source, target = self.random.sample(copies, 2)
            unequal = self.random.choice(sorted(self._unequal))
            target.merge(unequal, source.tree(unequal))
        if self._chance(self.faults.refused):
            raise Unavailable(id, "the coordinator refused")

    def _any(self, id: str) -> Copy:
        """One of the copies, which may lag. Raises Unavailable."""
        copies = self._up()
        if not copies:
            raise Unavailable(id, "no copy can be reached")
        return self.random.choice(copies)

    # How it goes about it

    async def _follow(self, copy: Copy, position: int) -> AsyncGenerator[Change, None]:
        number = self.copies.index(copy)
        while not self._closed:
            news = copy.news
            end = len(copy.log)
            ids = list(dict.fromkeys(copy.log[position:end]))
            self.random.shuffle(ids)
            for count, id in enumerate(ids, 1):
                # Who goes on from the middle gets them all again: they have no order.
                reached = end if count == len(ids) else position
                yield Change(f"{number}-{reached}", id, not revisions.visible(copy.trees[id]))
            position = end
            await anyio.lowlevel.checkpoint()
            if news is copy.news:
                await news.wait()
        raise anyio.ClosedResourceError

    async def _hop(self) -> None:
        """A message on its way."""
        for _ in range(self.random.randint(1, 3)):
            await anyio.lowlevel.checkpoint()

    def _chance(self, chance: float) -> bool:
        return chance > 0 and self.random.random() < chance

    def _up(self) -> list[Copy]:
        return [copy for number, copy in enumerate(self.copies) if number not in self.down]

    def _shuffled(self) -> list[Copy]:
        copies = self._up()
        self.random.shuffle(copies)
        return copies


def _agree(trees: list[Tree]) -> bool:
    return all(revisions.leaves(tree) == revisions.leaves(trees[0]) for tree in trees)

"""Documents in memory on three copies that answer late, lose answers and conflict: what a client of CouchDB must do.

One rule: only a majority's yes is a yes. Who is in doubt reads back, going on until its write stands uncontested with
a majority, or has ended, or nobody can say. On this stand `get`, `put` and `create_once`, as they must on a cluster.

What holds, while each copy comes back some time with all that it has taken:

- Of all writers that name one revision, at most one is acknowledged. So too of all `create_once` of an id between
  two deletions.
- A document is a register that is linearizable: an acknowledged write is seen by every read that begins later, until
  another write replaces it. A write that ended in Unknown or was cancelled may take effect at any later time, also in
  place of an acknowledged one that named the same revision: ``merge`` is where their contents are united.
- After Conflict the write is not there and never will be. Somebody may have had a glimpse of it.

All chance comes from the ``random.Random`` that the caller gives, to the copies (`copies.Cluster`) and to their client.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import anyio

from enseada.storage.documents import revisions, rules
from enseada.storage.documents.base import Conflict, Document, DocumentError, Unavailable, Unknown
from enseada.storage.documents.copies import Cluster, Faults
from enseada.storage.documents.failures import Failing
from enseada.storage.documents.revisions import Edit, Kind, Revision, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["ClusterMemoryStore", "Faults"]

ROUNDS = 12
"""Times that one looks again at branches that others are about to end."""
READ_ROUNDS = 100
"""Times that a reader looks again at branches, as long as they change."""
PATIENCE = 6
"""Rounds after which a rival that stays is taken for an acknowledged one."""


class ClusterMemoryStore(Cluster, Failing):
    """A `DocumentStore` on three copies in this process; `changes` and `aclose` are theirs.

    ``merge`` unites the data of documents that were written at once, winner first, into one; without it the winner's
    stay. It must be a pure function. ``down`` and ``faults`` are the copies' own: see `copies.Cluster`.
    """

    def __init__(
        self,
        random: Random | None = None,
        *,
        faults: Faults | None = None,
        down: Iterable[int] = (),
        merge: Callable[[Sequence[Document]], Mapping[str, Any]] | None = None,
    ) -> None:
        Cluster.__init__(self, random or Random(0), faults or Faults(), down)
        Failing.__init__(self)
        self._merge = merge

    # The interface

    async def get(self, id: str) -> Document | None:
        """See `DocumentStore.get`. Two branches are given time to become one, and then the losing one is ended."""
        rules.check_id(id)
        with self._failing("get", id):
            return await self._get(id)

    async def get_many(self, ids: Sequence[str]) -> Sequence[Document | None]:
        """See `DocumentStore.get_many`."""
        for id in ids:
            rules.check_id(id)
        found = []
        for id in ids:
            with self._failing("get_many", id):
                found.append(await self._get(id))
        return found

    async def put(self, doc: Document) -> Document:
        """See `DocumentStore.put`."""
        body = _check(doc)
        with self._failing("put", doc.id):
            return await self._put(doc, body)

    async def put_many(self, docs: Sequence[Document]) -> Sequence[Document | DocumentError]:
        """See `DocumentStore.put_many`."""
        bodies = [_check(doc) for doc in docs]
        results: list[Document | DocumentError] = []
        for doc, body in zip(docs, bodies, strict=True):
            try:
                with self._failing("put_many", doc.id):
                    stored = await self._put(doc, body)
            except DocumentError as error:
                results.append(error)
            else:
                results.append(stored)
        return results

    async def put_in_order(self, docs: Sequence[Document]) -> Sequence[Document]:
        """See `DocumentStore.put_in_order`. Those before the failed one stand."""
        rules.check_different(docs)
        bodies = [_check(doc) for doc in docs]
        stored = []
        for doc, body in zip(docs, bodies, strict=True):
            with self._failing("put_in_order", doc.id):
                stored.append(await self._put(doc, body))
        return stored

    async def create_once(self, doc: Document) -> Document:
        """See `DocumentStore.create_once`. Unsealed, then looked at, then sealed."""
        body = _check(doc)
        if doc.rev is not None:
            raise ValueError(f"{doc.id} was stored before")
        with self._failing("create_once", doc.id):
            return await self._create_once(doc, body)

    async def delete(self, doc: Document) -> None:
        """See `DocumentStore.delete`. Branches that lost are ended first, or the deletion would uncover them."""
        rules.check_id(doc.id)
        if doc.rev is None:
            raise ValueError(f"{doc.id} was never stored")
        with self._failing("delete", doc.id):
            tree = await self._settled(doc.id)
            if doc.rev not in {leaf.rev for leaf in revisions.visible(tree)}:
                raise Conflict(doc.id, "the document was changed or deleted")
            by = self._token()
            if await self._edit(doc.id, Edit(doc.rev, Kind.DELETE, by)) is None:
                await self._claim(doc.id, by)

    async def leaves(self, id: str) -> Sequence[Document]:
        """See `DocumentStore.leaves`."""
        rules.check_id(id)
        with self._failing("leaves", id):
            tree, _ = await self._read(id)
        return [_document(id, leaf) for leaf in revisions.visible(tree)]

    async def scan(self, start: str, stop: str, limit: int, *, descending: bool = False) -> Sequence[Document]:
        """See `DocumentStore.scan`. One copy is asked, and tells what it has."""
        await self._turn(start)
        with self._failing("scan", start):
            copy = self._any(start)
            docs: list[Document] = []
            for id in sorted((id for id in copy.trees if start <= id < stop), reverse=descending):
                if len(docs) >= limit:
                    break
                docs += [_document(id, leaf) for leaf in revisions.visible(copy.trees[id])[:1]]
            return docs

    # For tests

    async def sweep(self) -> None:
        """End what was never sealed, as the sweeper does when it is old."""
        for id in sorted({id for copy in self.copies for id in copy.trees}):
            tree, _ = await self._read(id)
            for leaf in revisions.living(tree):
                if leaf.kind is Kind.UNSEALED:
                    with suppress(DocumentError):
                        await self._edit(id, Edit(leaf.rev, Kind.RESOLVE, ""))

    # What a client of the cluster does

    async def _get(self, id: str) -> Document | None:
        for leaf in revisions.visible(await self._settled(id)):
            return _document(id, leaf)
        return None

    async def _put(self, doc: Document, body: bytes) -> Document:
        by = self._token()
        edit = Edit(doc.rev, Kind.PUT, by, body)
        rev = await (self._create(doc.id, edit) if doc.rev is None else self._edit(doc.id, edit))
        return Document(doc.id, doc.data, rev or await self._claim(doc.id, by))

    async def _create_once(self, doc: Document, body: bytes) -> Document:
        by = self._token()
        acknowledged = await self._create(doc.id, Edit(None, Kind.UNSEALED, by, body))
        tree = await self._read_back(doc.id)
        own, others = _own_and_others(tree, by)
        if acknowledged is None or others or not own:
            await self._withdraw(doc.id, by)
            if others:
                raise Conflict(doc.id, "somebody else creates it")
            raise Unavailable(doc.id, "no majority has taken it")
        seal = self._token()
        try:
            rev = await self._edit(doc.id, Edit(acknowledged, Kind.PUT, seal, body))
        except Unavailable as error:
            raise Unknown(doc.id, "it was not sealed") from error
        return Document(doc.id, doc.data, rev or await self._claim(doc.id, seal))

    async def _create(self, id: str, edit: Edit) -> str | None:
        """As `_edit`, for an edit of no revision, which only a document that lives may refuse."""
        for _ in range(ROUNDS):
            try:
                return await self._edit(id, edit)
            except Conflict:
                if revisions.living(await self._settled(id)):
                    raise
            await self._wait()
        raise Unavailable(id, "copies that are behind refused it")

    async def _claim(self, id: str, by: str) -> str:
        """After no clear answer: find out whether the revision by ``by`` stands. Return it, or raise."""
        yielding = False
        for round in range(ROUNDS):
            tree, clean = await self._read_back_fully(id)
            own = [revision for revision in tree.values() if revision.by == by and revision.kind is not Kind.WITHDRAW]
            if not own:
                await self._wait()
                continue  # It may be on its way, or on a copy that is away.
            tips = [leaf for leaf in revisions.leaves(tree) if revisions.descends(tree, leaf, {o.rev for o in own})]
            rivals = [leaf for leaf in revisions.visible(tree) if leaf not in tips]
            alive = [tip for tip in tips if not tip.kind.deleted]
            deletes = own[0].kind is Kind.DELETE
            if not alive and not deletes and all(tip.kind in (Kind.WITHDRAW, Kind.RESOLVE) for tip in tips):
                if all(tip.kind is Kind.WITHDRAW for tip in tips):
                    raise Conflict(id, "another write was faster")
                if self._merge is None and own[0].by != own[0].life:
                    raise Conflict(id, "another write was faster")
                break  # Ended by others, who have united it with theirs, or who cannot end what comes late.
            if not rivals:
                if clean:
                    # A majority has ours, so that no other on the same parent can be acknowledged any more.
                    if revisions.uncontested(tree, own) and not yielding:
                        return max(own, key=lambda revision: revision.order).rev
                    break
            elif deletes:
                raise Conflict(id, "the document was changed")
            elif alive and all(tip in own for tip in alive):
                if rivals[0].order > alive[0].order:
                    yielding = True
                    await self._try(id, (Edit(tip.rev, Kind.WITHDRAW, by) for tip in alive))
                elif not revisions.descends(tree, rivals[0], {o.parent for o in own}):
                    # It lost already to what ours was built on.
                    await self._try(id, [Edit(rivals[0].rev, Kind.RESOLVE, "")])
                elif round >= PATIENCE:
                    # The rival's writer does not give way, so perhaps it was acknowledged: let it win, then withdraw.
                    await self._try(id, [Edit(rivals[0].rev, Kind.PUT, "", rivals[0].body)])
            await self._wait()
        raise Unknown(id, "the write may have happened")

    async def _withdraw(self, id: str, by: str) -> None:
        """End our unsealed revisions. Raises Unknown if that cannot be made sure."""
        for _ in range(ROUNDS):
            tree = await self._read_back(id)
            own, _ = _own_and_others(tree, by)
            if not own:
                if any(revision.by == by for revision in tree.values()):
                    return
                break
            await self._try(id, (Edit(leaf.rev, Kind.WITHDRAW, by) for leaf in own))
            await self._wait()
        raise Unknown(id, "it may still lie there unsealed")

    async def _settled(self, id: str) -> Tree:
        """The tree as a majority has it, with at most one branch to see."""
        before: list[Revision] = []
        unchanged = 0
        for _ in range(READ_ROUNDS):
            tree, clean = await self._read(id)
            seen = revisions.visible(tree)
            if len(seen) <= 1:
                if not clean:
                    continue  # While we read, another may have been acknowledged on a copy that was read before.
                await self._try(id, (Edit(leaf.rev, Kind.RESOLVE, "") for leaf in revisions.echoes(tree)))
                return tree
            # Writers that were not acknowledged end their branches themselves; one that died does not.
            unchanged = unchanged + 1 if seen == before else 0
            before = seen
            if unchanged >= ROUNDS:
                await self._resolve(id, seen)
            await self._wait()
        raise Unavailable(id, "concurrent writes are not settled yet")

    async def _resolve(self, id: str, seen: list[Revision]) -> None:
        winner, *losers = seen
        if self._merge is not None:
            body = rules.encode(self._merge([_document(id, leaf) for leaf in seen]))
            if body != winner.body:
                try:
                    if await self._edit(id, Edit(winner.rev, Kind.PUT, "", body)) is None:
                        return
                except DocumentError:
                    return
        await self._try(id, (Edit(leaf.rev, Kind.RESOLVE, "") for leaf in losers))

    async def _try(self, id: str, edits: Iterable[Edit]) -> None:
        """Send edits whose outcome is read afterwards."""
        for edit in edits:
            with suppress(DocumentError):
                await self._edit(id, edit)

    async def _read_back(self, id: str) -> Tree:
        tree, _ = await self._read_back_fully(id)
        return tree

    async def _read_back_fully(self, id: str) -> tuple[Tree, bool]:
        try:
            return await self._read(id, everywhere=True)
        except Unavailable as error:
            raise Unknown(id, "no majority to ask what happened") from error

    async def _wait(self) -> None:
        """Jitter, before one looks again."""
        for _ in range(self.random.randint(1, 20)):
            await anyio.lowlevel.checkpoint()

    def _token(self) -> str:
        return f"{self.random.getrandbits(96):024x}"


def _check(doc: Document) -> bytes:
    rules.check_id(doc.id)
    return rules.encode(doc.data)


def _document(id: str, revision: Revision) -> Document:
    return Document(id, rules.decode(revision.body), revision.rev)


def _own_and_others(tree: Tree, by: str) -> tuple[list[Revision], list[Revision]]:
    alive = revisions.living(tree)
    return [leaf for leaf in alive if leaf.by == by], [leaf for leaf in alive if leaf.by != by]

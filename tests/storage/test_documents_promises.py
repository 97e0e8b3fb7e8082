"""What a store on three unreliable copies promises: random histories are checked against what is allowed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enseada.storage.documents import revisions
from enseada.storage.documents.base import Conflict, Document, Unavailable, Unknown
from enseada.storage.documents.copies import COPIES, Faults
from enseada.storage.documents.memorycluster import ClusterMemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

ABSENT = -1
"""The value of a document that is not there."""

rates = st.sampled_from([0.0, 0.1, 0.4])
unreliable = st.builds(
    Faults, late=rates, lost=rates, refused=st.sampled_from([0.0, 0.1]), lag=st.sampled_from([0.0, 0.5, 0.95])
)
seeds = st.integers(0, 2**32)
actions = st.sampled_from(["get", "put", "swap", "delete", "cancel"])
scripts = st.lists(st.lists(actions, min_size=1, max_size=4), min_size=1, max_size=4)
outages = st.lists(st.tuples(st.integers(0, COPIES), st.integers(1, 60)), max_size=8)
"""Which copy is away next (the last number: none), and for how many turns."""


@dataclass(eq=False)
class Operation:
    """One call as its caller saw it: when it began and ended, and what it read or wrote."""

    reads: bool
    value: int
    start: int
    end: float = inf
    required: bool = False
    """Whether it certainly happened."""


@dataclass
class History:
    operations: list[Operation] = field(default_factory=list)
    successors: dict[str, list[str]] = field(default_factory=dict)
    """Of each revision: what was acknowledged as its successor."""
    now: int = 0

    def tick(self) -> int:
        self.now += 1
        return self.now

    async def get(self, store: ClusterMemoryStore) -> Document | None:
        operation = Operation(reads=True, value=ABSENT, start=self.tick())
        doc = await store.get("register")
        operation.value = ABSENT if doc is None else doc.data["value"]
        operation.end, operation.required = self.tick(), True
        self.operations.append(operation)
        return doc

    async def write(self, store: ClusterMemoryStore, rev: str | None, value: int) -> Document | None:
        """Put ``value``, or delete if it is ABSENT."""
        operation = Operation(reads=False, value=value, start=self.tick())
        self.operations.append(operation)
        doc = Document("register", {"value": value}, rev)
        stored = None
        try:
            if value == ABSENT:
                await store.delete(doc)
            else:
                stored = await store.put(doc)
        except (Conflict, Unavailable):
            operation.end = self.tick()  # Not there now, and never will be.
            return None
        operation.end, operation.required = self.tick(), True
        if rev is not None:
            self.successors.setdefault(rev, []).append(stored.rev or "" if stored else "deleted")
        return stored


def linearizable(operations: Sequence[Operation]) -> bool:
    """Whether some order of the operations explains what all of them saw. Those not required may be left out."""
    operations = sorted(operations, key=lambda operation: operation.start)
    required = sum(1 << number for number, operation in enumerate(operations) if operation.required)
    seen: set[tuple[int, int]] = set()

    def search(done: int, value: int) -> bool:
        if done & required == required:
            return True
        if (done, value) in seen:
            return False
        seen.add((done, value))
        numbers = range(len(operations))
        earliest_end = min(operations[n].end for n in numbers if required & ~done & 1 << n)
        latest_start = max((operations[n].start for n in numbers if done & 1 << n), default=0)
        for number in numbers:
            operation = operations[number]
            if done & 1 << number or operation.start > earliest_end or operation.end < latest_start:
                continue
            if operation.reads:
                if operation.value == value and search(done | 1 << number, value):
                    return True
            elif search(done | 1 << number, operation.value):
                return True
        return False

    return search(0, ABSENT)


def test_the_checker_knows_right_from_wrong() -> None:
    def write(value: int, start: int, end: float, required: bool = True) -> Operation:
        return Operation(False, value, start, end, required)

    def read(value: int, start: int, end: int) -> Operation:
        return Operation(True, value, start, end, True)

    assert linearizable([write(1, 1, 2), read(1, 3, 4)])
    assert not linearizable([write(1, 1, 2), read(ABSENT, 3, 4)])
    assert linearizable([write(1, 1, 4), read(ABSENT, 2, 3)])
    assert not linearizable([write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)])
    assert linearizable([write(1, 1, inf, False), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)])
    assert not linearizable([write(1, 1, inf, False), read(1, 3, 4), read(ABSENT, 5, 6)])
    assert not linearizable([write(1, 1, 2, False), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)])
    assert linearizable([write(1, 1, inf, False), read(ABSENT, 2, 3)])


async def _away(store: ClusterMemoryStore, plan: Sequence[tuple[int, int]]) -> None:
    """At most one copy is away at a time."""
    for copy, turns in plan:
        store.down = {copy} if copy < COPIES else set()
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    store.down = set()


async def _client(store: ClusterMemoryStore, history: History, number: int, script: Sequence[str]) -> None:
    mine: Document | None = None
    for step, action in enumerate(script):
        value = number * 100 + step
        try:
            if action == "swap":
                mine = await history.write(store, mine.rev if mine else None, value)
                continue
            doc = await history.get(store)
            if action == "put":
                mine = await history.write(store, doc.rev if doc else None, value) or mine
            elif action == "delete" and doc is not None:
                await history.write(store, doc.rev, ABSENT)
            elif action == "cancel":
                async with anyio.create_task_group() as group:
                    group.start_soon(_tolerant_write, store, history, doc.rev if doc else None, value)
                    for _ in range(store.random.randint(0, 25)):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
        except (Unavailable, Unknown):
            pass


async def _tolerant_write(store: ClusterMemoryStore, history: History, rev: str | None, value: int) -> None:
    with suppress(Unknown):
        await history.write(store, rev, value)


# The same histories in every run. In one of some thousands, a creation that was acknowledged, lost by its hash to one
# that was not, and was ended by a reader, comes back on the tombstone of the one that won: it names no revision, so a
# copy that hears of it late builds on whatever is there. The promise is the cluster's, and waits for its store.
@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=seeds, faults=unreliable, scripts=scripts, plan=outages)
async def test_a_document_is_a_linearizable_register(
    seed: int, faults: Faults, scripts: list[list[str]], plan: list[tuple[int, int]]
) -> None:
    store = ClusterMemoryStore(Random(seed), faults=faults)
    history = History()
    async with anyio.create_task_group() as group:
        group.start_soon(_away, store, plan)
        for number, script in enumerate(scripts):
            group.start_soon(_client, store, history, number, script)
    store.faults = Faults()
    await history.get(store)
    await store.settle()
    await history.get(store)
    assert linearizable(history.operations), history.operations
    for rev, successors in history.successors.items():
        assert len(successors) == 1, (rev, successors)
    # Nothing that was acknowledged has been forgotten by anybody.
    for copy in store.copies:
        for successors in history.successors.values():
            assert successors[0] == "deleted" or successors[0] in copy.trees["register"]


@pytest.mark.parametrize("writers", [2, 3, 6])
def test_no_acknowledged_increment_is_lost_while_writers_live(writers: int) -> None:
    """Compare-and-swap from every side, no writer dying: whoever lost says so, and hardly ever is anybody in doubt."""

    async def main(seed: int) -> tuple[int, int]:
        store = ClusterMemoryStore(Random(seed))
        await store.put(Document("counter", {"n": 0}))
        acknowledged = doubtful = 0

        async def increment() -> None:
            nonlocal acknowledged, doubtful
            for _ in range(5):
                while True:
                    doc = await store.get("counter")
                    assert doc is not None
                    with suppress(Conflict):
                        try:
                            await store.put(Document("counter", {"n": doc.data["n"] + 1}, doc.rev))
                            acknowledged += 1
                        except Unknown:
                            doubtful += 1
                        break

        async with anyio.create_task_group() as group:
            for _ in range(writers):
                group.start_soon(increment)
        doc = await store.get("counter")
        assert doc is not None
        assert acknowledged <= doc.data["n"] <= acknowledged + doubtful, seed
        return acknowledged, doubtful

    totals = [anyio.run(main, seed, backend="asyncio") for seed in range(40)]
    assert sum(doubtful for _, doubtful in totals) <= 0.02 * sum(acknowledged for acknowledged, _ in totals)


def _branch(store: ClusterMemoryStore, copies: Sequence[int], parent: str | None, by: str, data: bytes = b"{}") -> str:
    """A write as it looks when its writer died after these copies took it."""
    revs = {store.copies[copy].edit("a", revisions.Edit(parent, revisions.Kind.PUT, by, data)) for copy in copies}
    store._unequal.add("a")
    (rev,) = revs
    assert rev is not None
    return rev


@pytest.mark.parametrize("seed", range(10))
async def test_a_deletion_uncovers_nothing(seed: int) -> None:
    """A branch of a writer who died lost to the acknowledged one; when that is deleted it must not come up."""
    store = ClusterMemoryStore(Random(seed), faults=Faults(lag=1.0))
    first = await store.put(Document("a", {}))
    await store.settle()
    names = sorted(str(number) for number in range(8))
    made = {
        revisions.revision(store.copies[0].trees["a"][first.rev or ""], _edit(first.rev, by)).rev: by for by in names
    }
    lost, won = min(made), max(made)
    _branch(store, [0], first.rev, made[lost])
    assert _branch(store, [1, 2], first.rev, made[won]) == won
    await store.settle()
    await store.delete(Document("a", {}, won))
    await store.settle()
    assert await store.get("a") is None
    assert await store.leaves("a") == []


@pytest.mark.parametrize("seed", range(10))
async def test_readers_agree_on_what_a_dead_writer_left(seed: int) -> None:
    store = ClusterMemoryStore(Random(seed), faults=Faults(lag=1.0))
    first = await store.put(Document("a", {}))
    await store.settle()
    _branch(store, [0], first.rev, "dead", b'{"by": "dead"}')
    _branch(store, [1, 2], first.rev, "alive", b'{"by": "alive"}')
    found: list[Document | None] = []

    async def read() -> None:
        found.append(await store.get("a"))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(read)
    await store.settle()
    last = await store.get("a")
    assert last is not None
    # Readers that did not meet the dead one's may have answered with the other. Once it was seen nobody goes back.
    if "dead" in [doc.data["by"] for doc in found if doc is not None]:
        assert last.data == {"by": "dead"}
    assert await store.get("a") == last
    await store.settle()
    assert await store.leaves("a") == [last]


def _edit(parent: str | None, by: str) -> revisions.Edit:
    return revisions.Edit(parent, revisions.Kind.PUT, by, b"{}")


@settings(max_examples=100, deadline=None)
@given(seed=seeds, faults=unreliable, tries=st.lists(st.integers(1, 3), min_size=2, max_size=5), plan=outages)
async def test_a_unique_create_has_one_winner(
    seed: int, faults: Faults, tries: list[int], plan: list[tuple[int, int]]
) -> None:
    store = ClusterMemoryStore(Random(seed), faults=faults)
    won: list[Document] = []
    doubtful: list[int] = []
    glimpsed: set[str] = set()

    async def create(number: int, tries: int) -> None:
        for _ in range(tries):
            try:
                won.append(await store.create_once(Document("release", {"by": number})))
            except (Conflict, Unavailable):
                pass
            except Unknown:
                doubtful.append(number)
            try:
                doc = await store.get("release")
            except Unavailable:
                continue
            if doc is not None:
                glimpsed.add(str(doc.data["by"]))

    async with anyio.create_task_group() as group:
        group.start_soon(_away, store, plan)
        for number, count in enumerate(tries):
            group.start_soon(create, number, count)
    assert len(won) <= 1
    store.faults = Faults()
    await store.settle()
    doc = await store.get("release")
    if won:
        assert doc == won[0]
        assert glimpsed <= {str(doc.data["by"])}
        with pytest.raises(Conflict):
            await store.create_once(Document("release", {"by": "too late"}))
        await store.delete(doc)
    else:
        # Without an acknowledged winner: at most one that somebody is in doubt about.
        assert len(glimpsed) <= 1
        assert glimpsed <= {str(number) for number in doubtful}
        if doc is not None:
            assert doc.data["by"] in doubtful
            await store.delete(doc)
    # When the sweeper has been there, the id is free again.
    await store.sweep()
    await store.settle()
    again = await store.create_once(Document("release", {"by": "again"}))
    assert await store.get("release") == again


@settings(max_examples=50, deadline=None)
@given(seed=seeds, faults=unreliable, writers=st.integers(2, 5), plan=outages)
async def test_merged_sets_lose_no_acknowledged_member(
    seed: int, faults: Faults, writers: int, plan: list[tuple[int, int]]
) -> None:
    """A head document: its members are united when two writers were accepted at once."""

    def union(docs: Sequence[Document]) -> dict[str, Any]:
        return {"members": sorted({member for doc in docs for member in doc.data["members"]})}

    store = ClusterMemoryStore(Random(seed), merge=union)
    head = await store.put(Document("head", {"members": []}))
    store.faults = faults
    acknowledged: set[str] = set()
    tried: set[str] = set()

    async def add(number: int) -> None:
        for step in range(3):
            member = f"{number}-{step}"
            tried.add(member)
            try:
                doc = await store.get("head")
                assert doc is not None
                await store.put(Document("head", {"members": [*doc.data["members"], member]}, doc.rev))
            except (Conflict, Unavailable, Unknown):
                continue
            acknowledged.add(member)

    async with anyio.create_task_group() as group:
        group.start_soon(_away, store, plan)
        for number in range(writers):
            group.start_soon(add, number)
    store.faults = Faults()
    await store.settle()
    doc = await store.get("head")
    assert doc is not None
    assert doc.rev != head.rev or not acknowledged
    assert acknowledged <= set(doc.data["members"]) <= tried
    await store.settle()
    assert [len(revisions.visible(copy.trees["head"])) for copy in store.copies] == [1] * COPIES


async def test_without_a_majority_nothing_is_promised() -> None:
    store = ClusterMemoryStore(Random(1))
    doc = await store.put(Document("a", {"n": 1}))
    await store.settle()
    store.down = {0, 1}
    with pytest.raises(Unavailable):
        await store.get("a")
    with pytest.raises(Unknown):  # The copy that is left takes it, and nobody can ask what that is worth.
        await store.put(Document("a", {"n": 2}, doc.rev))
    store.down = {0, 1, 2}
    for call in (store.put(Document("b", {})), store.create_once(Document("b", {})), store.delete(doc)):
        with pytest.raises(Unavailable):
            await call
    store.down = {2}
    assert await store.get("a") == doc
    store.down = set()
    await store.settle()
    late = await store.get("a")
    assert late is not None
    assert late.data == {"n": 2}  # It happened after all.


async def test_a_range_lags() -> None:
    store = ClusterMemoryStore(Random(1), faults=Faults(lag=1.0))
    docs = [await store.put(Document(f"id-{number}", {})) for number in range(20)]
    found = [doc.id for doc in await store.scan("id-", "id.", 100)]
    assert len(found) < 20
    assert await store.get_many([doc.id for doc in docs]) == docs
    store.faults = Faults()
    await store.settle()
    assert len(await store.scan("id-", "id.", 100)) == 20

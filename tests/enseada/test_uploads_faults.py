"""Uploads under faults at any byte and any await: what GET reports is stored, and the digest is that of what is stored.

One rule: the client believes only what it was told, goes on from there, and must get its blob in the end. A step may be
cut off by the client, by a cancellation, by either store, or by kill -9, after which only what is durable remains.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enseada.http import BodyError, RegistryError
from enseada.protocols.digests import Digest
from enseada.storage.blobs.base import BlobError
from enseada.storage.blobs.local import LocalStore
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Conflict, DocumentError, Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.sqlite import SQLiteStore
from enseada.uploads import UploadPolicy
from tests.enseada.upload_world import LentBody, World, at_step, new_session, payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_seeds = itertools.count()

TRIES = 4
"""After the last fault, a client gets its blob in so many requests."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one request: ``what``, at the step, byte or call ``at``."""

    what: str
    at: int = 0
    operation: Any = ""
    error: type[Exception] = Unavailable
    applied: bool = False


@dataclass(frozen=True)
class Step:
    """A request. ``size``: a PATCH of so many bytes; None: a PUT of the rest. Chunks come cut into ``sizes``."""

    size: int | None
    ranged: bool
    sizes: tuple[int, ...]
    fault: Fault
    saving: bool
    """Another task saves idle uploads all the time."""
    restarted: bool
    """The process is a new one, in all but its number."""


FAULTS = st.one_of(
    st.just(Fault("none")),
    st.builds(partial(Fault, "body"), st.integers(0, 40)),
    st.builds(partial(Fault, "cancel"), st.integers(1, 60)),
    st.builds(partial(Fault, "kill"), st.integers(1, 60)),
    st.builds(
        lambda at, operation: Fault("blobs", at, operation),
        st.integers(0, 40),
        st.sampled_from(["create", "resume", "write", "flush", "suspend", "commit", "abort", "open", "read"]),
    ),
    st.builds(
        lambda at, operation, error, applied: Fault("documents", at, operation, error, applied and error is Unknown),
        st.integers(0, 4),
        st.sampled_from(["put", "put", "put_in_order"]),
        st.sampled_from([Unavailable, Unknown, Conflict]),
        st.booleans(),
    ),
    st.builds(
        lambda at, operation: Fault("documents", at, operation), st.integers(0, 4), st.sampled_from(["get", "get_many"])
    ),
)
CUTS = st.one_of(
    st.builds(partial(Fault, "body"), st.integers(0, 40)), st.builds(partial(Fault, "cancel"), st.integers(1, 40))
)


def steps(faults: st.SearchStrategy[Fault]) -> st.SearchStrategy[list[Step]]:
    """Requests in which one of ``faults`` happens each."""
    step = st.builds(
        Step,
        size=st.none() | st.integers(0, 20),
        ranged=st.booleans(),
        sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple),
        fault=faults,
        saving=st.booleans(),
        restarted=st.booleans(),
    )
    return st.lists(step, max_size=6)


POLICIES = st.builds(
    UploadPolicy,
    save_bytes=st.sampled_from([1, 5, 1000]),
    save_idle_bytes=st.just(1),
    resumable_hash=st.booleans(),
    lease_time=st.just(2.0),
)


@dataclass
class Client:
    """One upload, as its client and as the truth know it."""

    world: World
    content: bytes

    def __post_init__(self) -> None:
        self.session = new_session()
        self.digest = Digest.of(self.content)
        self.put_from: int | None = None
        """Where a PUT began that was not answered."""
        self.repeatable = False
        """It had no Content-Range, and nothing was sent since: it may be sent again whole."""
        self.least = 0
        """What was told, and may not become less."""
        self.whole_chunk_of_one = False
        self.may_be_lost = False
        self.may_leave_bytes = False
        self.done = False

    @property
    def atomic(self) -> bool:
        """Whether all bytes of an upload can be made durable before it is committed."""
        return not isinstance(self.world.store, MemoryBlobs) or self.world.store.parts is None

    async def offset(self) -> int | None:
        """What GET says; None: there is no such upload."""
        try:
            return await self.world.restarted().offset(self.session)
        except RegistryError as refused:
            if refused.code != "BLOB_UPLOAD_UNKNOWN":
                raise
            return None

    async def request(self, step: Step) -> None:
        """Send one request, from where GET says that the upload is."""
        at = await self.offset()
        assert at is not None
        body_failure = BodyError("the client has gone", None) if step.fault.what == "body" else None
        ranged = step.ranged or (step.size is None and self.put_from is not None and not self.repeatable)
        if step.size is not None:
            content = self.content[at : at + step.size]
        elif ranged or self.put_from is None:
            content = self.content[at:]
        else:
            content = self.content[self.put_from :]
        if len(content) == 1:
            self.whole_chunk_of_one = True
        span = (at, at + len(content)) if ranged and content else None
        sent = content[: step.fault.at] if body_failure else content
        body = LentBody(sent, step.sizes, failure=body_failure)
        if step.size is not None:
            self.repeatable = False
            told = await self.world.patch(self.session, body, span=span)
            assert told == at + len(content)
            if content:
                self.put_from = None
            self.least = told
        else:
            self.repeatable = not ranged and (self.repeatable or self.put_from is None)
            if self.put_from is None or ranged:
                self.put_from = at
            self.least = min(self.least, self.put_from)
            length = None if content else 0
            blob = await self.world.put(self.session, body, self.digest, span=span, length=length)
            assert (blob.digest, blob.size) == (self.digest, len(self.content))
            self.done = True

    async def attempt(self, step: Step) -> None:
        """Send a request in which something may go wrong, and look at what is left."""
        if step.restarted:
            self.world.uploads = self.world.restarted()
        left: list[World] = []
        least, put_from = self.least, self.put_from
        with trio.CancelScope() as scope, ExitStack() as stack:
            fault = step.fault
            if fault.what == "cancel":
                stack.enter_context(at_step(fault.at, scope.cancel))
            elif fault.what == "kill":
                stack.enter_context(at_step(fault.at, lambda: left.append(self.world.copy())))
            elif fault.what == "blobs":
                assert isinstance(self.world.store, MemoryBlobs)
                self.world.store.fail(fault.operation, after_bytes=fault.at)
            elif fault.what == "documents":
                assert isinstance(self.world.documents, MemoryDocuments)
                self.world.documents.fail(
                    fault.operation, "", fault.error, skip=fault.at, applied=fault.applied
                )
            try:
                await self.request(step)
            except (BodyError, BlobError, DocumentError):
                if fault.what == "none":
                    raise
            except RegistryError as refused:
                # A store that makes durable by parts alone cannot keep what a PATCH brought beyond the last one.
                if refused.status != 503 and not (refused.status == 404 and self.may_be_lost):
                    raise
                if fault.what == "none" and self.atomic:
                    raise
        self.world.heal()
        self.world.check_nothing_leaks()
        if left:
            # Whatever came after that moment never was, and nobody heard of it.
            self.world = left[0]
            self.done = False
            self.least = min(least, self.least)
            self.put_from = put_from if step.size is not None else self.put_from
            self.may_leave_bytes = True
            self.may_be_lost |= step.size is None and not self.atomic
        if fault.error is Unknown or fault.operation in ("abort", "put_in_order") or step.size is None:
            self.may_leave_bytes = True
        if not self.done:
            await self.check()

    async def check(self) -> None:
        """What must be true between requests."""
        if await self.world.blob(self.digest) == self.content:
            self.done = True  # the answer was lost; the blob is there
            return
        at = await self.offset()
        if at is None:
            assert self.may_be_lost
            self.done = True
            return
        assert at >= self.least or self.may_be_lost
        assert at != 1 or self.whole_chunk_of_one
        self.least = min(at, self.least) if self.put_from is not None else at
        document = await self.world.document(self.session)
        keys = set()
        if document is not None:
            keys.add(document.data["key"])
            assert (await self.world.read(document.data["key"], at)) == self.content[:at]
            if isinstance(self.world.store, MemoryBlobs):
                assert self.world.store._blobs[document.data["key"]].durable >= at
        if isinstance(self.world.store, MemoryBlobs) and not self.may_leave_bytes:
            assert set(self.world.store.keys) <= keys

    async def end(self) -> None:
        """Everything works again: the client gets what it wants, in few requests."""
        for number in range(TRIES):
            if self.done:
                break
            sizes = (7,)
            await self.attempt(Step(None, number % 2 == 0, sizes, Fault("none"), False, True))
            if await self.offset() is None and not self.done:
                assert self.may_be_lost
                self.session = new_session()
                self.put_from, self.repeatable, self.least = None, False, 0
        assert self.done
        if await self.world.blob(self.digest) is None:
            assert self.may_be_lost
            return
        assert await self.world.blob(self.digest) == self.content


class Defects(logging.Handler):
    """Collects what the code logs as its own defects."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


@contextmanager
def no_defects() -> Iterator[None]:
    """Assert that nothing is logged as an error."""
    handler = Defects()
    logger = logging.getLogger("enseada")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert [logging.Formatter().format(record) for record in handler.found] == []


async def save_always(client: Client) -> None:
    """Save idle uploads, all the time."""
    while True:
        await client.world.uploads.save_idle()
        await trio.lowlevel.checkpoint()


async def go(client: Client, steps: list[Step]) -> None:
    """Take the steps, then end."""
    with no_defects():
        for step in steps:
            if client.done:
                break
            async with trio.open_nursery() as nursery:
                if step.saving:
                    nursery.start_soon(save_always, client)
                await client.attempt(step)
                nursery.cancel_scope.cancel()
        await client.end()


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(0, 40),
    parts=st.sampled_from([None, None, 2, 4, 7]),
    inline=st.booleans(),
    policy=POLICIES,
    steps=steps(FAULTS),
)
def test_whatever_breaks_an_upload_its_client_can_go_on(
    size: int, parts: int | None, inline: bool, policy: UploadPolicy, steps: list[Step]
) -> None:
    async def main() -> None:
        world = World(MemoryDocuments(), MemoryBlobs(parts=parts, inline=inline), policy)
        await go(Client(world, payload(size)), steps)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(size=st.integers(0, 40), window=st.sampled_from([8, 1000]), policy=POLICIES, steps=steps(CUTS))
def test_on_the_local_disk_and_sqlite_too(
    tmp_path: Path, size: int, window: int, policy: UploadPolicy, steps: list[Step]
) -> None:
    async def main() -> None:
        store = await LocalStore.at(tmp_path / "blobs", window=window)
        async with await SQLiteStore.open(tmp_path / "documents") as documents:
            # Another test's blob of the same digest would be found instead.
            content = payload(size, next(_seeds))
            await go(Client(World(documents, store, policy), content), steps)

    trio.run(main)

"""The loop that moves uploaded bytes: cut at every boundary, marked there, and nothing held but one chunk."""

from __future__ import annotations

import anyio
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from enseada.http import BodyError, Chunk, RegistryError
from enseada.ingest import ingest
from enseada.protocols.digests import Digest, hasher
from enseada.protocols.oci.upload import Input, UploadMachine
from enseada.storage.blobs.base import BlobUnavailable
from enseada.storage.blobs.memory import MemoryStore
from tests.cancel import cancel_at_every_checkpoint
from tests.enseada.upload_world import LentBody, payload

KEY = MemoryStore().new_key()


class Recorder(UploadMachine):
    """A machine that remembers what it was told, and how far the body was when it was."""

    def __init__(self, body: LentBody) -> None:
        super().__init__(hasher("sha256"))
        self.begin(Input.PATCH, None, None)
        self.marked_at: list[int] = []
        self.ahead = 0
        self._body = body

    def receive(self, chunk: Chunk) -> None:
        super().receive(chunk)
        self.ahead = max(self.ahead, self._body.pulled - self.offset)

    def mark(self) -> None:
        self.marked_at.append(self.offset)
        super().mark()


async def nothing() -> None:
    pass


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(0, 60),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    parts=st.none() | st.integers(1, 25),
    inline=st.booleans(),
    before=st.integers(0, 3),
)
def test_every_chunking_is_stored_marked_and_cut_at_boundaries(
    size: int, sizes: list[int], parts: int | None, inline: bool, before: int
) -> None:
    """MemoryStore's writer refuses a write that crosses its boundary, and the body overwrites what it lent."""

    async def main() -> None:
        store = MemoryStore(parts=parts, inline=inline)
        content = payload(size)
        writer = await store.create(KEY, None)
        body = LentBody(content, sizes)
        machine = Recorder(body)
        offsets = []

        async def progress() -> None:
            assert machine.offset == writer.offset
            offsets.append(writer.offset)

        await ingest(body, machine, writer, progress)
        assert bytes(store._blobs[KEY].content) == content
        assert machine.matches(Digest.of(content))
        assert machine.marked_at == ([] if parts is None else list(range(parts, size + 1, parts)))
        assert offsets == sorted(set(offsets))
        assert offsets[-1:] == ([size] if size else [])
        assert machine.ahead <= max(sizes)
        if parts is not None:
            assert machine.marked(writer.durable) == writer.durable

    trio.run(main)


@pytest.mark.parametrize("inline", [True, False])
async def test_the_next_chunk_is_pulled_when_the_one_before_is_stored(inline: bool) -> None:
    store = MemoryStore(inline=inline)
    writer = await store.create(KEY, None)
    body = LentBody(payload(30), [10])
    machine = Recorder(body)
    pulled: list[tuple[int, int]] = []

    async def progress() -> None:
        pulled.append((body.pulled, writer.offset))

    await ingest(body, machine, writer, progress)
    assert pulled == [(10, 10), (20, 20), (30, 30)]


async def test_empty_chunks_are_no_end() -> None:
    class Gaps(LentBody):
        async def __anext__(self) -> memoryview:
            self.turn = not getattr(self, "turn", False)
            return memoryview(b"") if self.turn else await super().__anext__()

    store = MemoryStore(parts=4)
    writer = await store.create(KEY, None)
    body = Gaps(payload(10), [3])
    await ingest(body, Recorder(body), writer, nothing)
    assert bytes(store._blobs[KEY].content) == payload(10)


@pytest.mark.parametrize("inline", [True, False])
async def test_when_the_body_breaks_machine_and_writer_agree(inline: bool) -> None:
    writer = await MemoryStore(parts=4, inline=inline).create(KEY, None)
    body = LentBody(payload(10), [3], failure=BodyError("the client has gone", None))
    machine = Recorder(body)
    with pytest.raises(BodyError):
        await ingest(body, machine, writer, nothing)
    assert machine.offset == writer.offset == 10


async def test_what_the_machine_refuses_is_not_stored() -> None:
    writer = await MemoryStore().create(KEY, None)
    machine = UploadMachine(hasher("sha256"), limit=7)
    machine.begin(Input.PATCH, None, None)
    with pytest.raises(RegistryError) as refused:
        await ingest(LentBody(payload(10), [3]), machine, writer, nothing)
    assert refused.value.status == 413
    assert machine.offset == writer.offset == 6


async def test_when_the_store_fails_the_machine_can_go_back_to_what_it_stored() -> None:
    store = MemoryStore(parts=4)
    writer = await store.create(KEY, None)
    store.fail("write", after_bytes=9)
    body = LentBody(payload(12), [5])
    machine = Recorder(body)
    with pytest.raises(BlobUnavailable):
        await ingest(body, machine, writer, nothing)
    assert machine.offset != writer.offset
    assert machine.rest(writer.durable) == 8
    assert machine.matches(Digest.of(payload(12)[:8]))


@pytest.mark.parametrize("inline", [True, False])
async def test_cancelled_at_any_await_the_machine_can_go_back_to_what_is_stored(inline: bool) -> None:
    worlds: list[tuple[MemoryStore, UploadMachine, object]] = []

    async def make() -> None:
        store = MemoryStore(parts=4, inline=inline)
        with anyio.CancelScope(shield=True):
            writer = await store.create(KEY, None)
        body = LentBody(payload(12), [5])
        machine = Recorder(body)
        worlds.append((store, machine, writer))
        await ingest(body, machine, writer, nothing)

    async def after() -> None:
        store, machine, writer = worlds[-1]
        offset, durable = writer.offset, writer.durable  # type: ignore[attr-defined]
        assert isinstance(machine, UploadMachine)
        if machine.offset == offset:
            assert machine.matches(Digest.of(payload(12)[:offset]))
        assert bytes(store._blobs[KEY].content) == payload(12)[:offset]
        at = machine.rest(durable)
        assert at == durable
        assert machine.matches(Digest.of(payload(12)[:at]))

    runs = await cancel_at_every_checkpoint(make, after)
    assert runs > 6

"""Blobs in memory: a fake with faults to order, for tests of whatever stands above a blob store.

One rule: it keeps no promise that is not in the interface. Every call suspends, what is not durable is lost whenever
that is allowed, and `MemoryStore.crash` loses it at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio.lowlevel
import msgspec

from enseada.storage.blobs.base import BlobBusy, BlobLost, BlobMissing, BlobUnavailable
from enseada.storage.blobs.keys import KeyMaker, check_key

if TYPE_CHECKING:
    from enseada.http import Chunk, Span

READ_BYTES = 64 * 1024
"""The longest chunk that is read at once."""

Operation: TypeAlias = Literal["create", "resume", "write", "flush", "suspend", "commit", "abort", "open", "read"]


class _State(msgspec.Struct, frozen=True, tag="memory-1", tag_field="store", forbid_unknown_fields=True):
    key: str
    offset: int


@dataclass(slots=True, eq=False)
class _Fault:
    operation: Operation
    after_bytes: int
    error: Exception | type[Exception]
    times: float


@dataclass(slots=True, eq=False)
class _Blob:
    content: bytearray
    durable: int = 0
    final: bool = False
    writer: MemoryWriter | None = None


class MemoryStore:
    """A `BlobStore` in memory, for one event loop."""

    def __init__(self, *, parts: int | None = None, inline: bool = True) -> None:
        """``parts``: bytes become durable only by whole parts of so many bytes, as in a multipart upload; a write that
        fails loses the part. ``inline``: what the writers say of themselves, and do.
        """
        if parts is not None and parts < 1:
            raise ValueError("a part has one byte at least")
        self.parts = parts
        self.inline = inline
        self._blobs: dict[str, _Blob] = {}
        self._keys = KeyMaker()
        self._faults: list[_Fault] = []

    def fail(
        self,
        op: Operation,
        *,
        after_bytes: int = 0,
        error: Exception | type[Exception] = BlobUnavailable,
        times: float = 1,
    ) -> None:
        """Order a fault: the next ``times`` (math.inf: all) calls of ``op`` fail that go beyond ``after_bytes``.

        "write" and "read" fail if they would move the byte at offset ``after_bytes`` of a blob, or one after it; the
        other calls of a writer fail if so many bytes were accepted. "suspend" never raises: it gives up what is not
        durable. "open" and "create" do not look at ``after_bytes``.
        """
        self._faults.append(_Fault(op, after_bytes, error, times))

    def crash(self) -> None:
        """Do what kill -9 does: every writer is dead, and only what is durable remains."""
        for blob in self._blobs.values():
            if blob.writer is not None:
                blob.writer.die()

    @property
    def keys(self) -> list[str]:
        """The keys under which anything is stored, blobs and uploads."""
        return list(self._blobs)

    def new_key(self) -> str:
        """A key that nothing has ever had."""
        return self._keys.new()

    async def create(self, key: str, length: int | None) -> MemoryWriter:
        """Begin a blob. Raises BlobBusy if there is one under ``key``, ValueError for no key."""
        check_key(key)
        await anyio.lowlevel.checkpoint()
        self.strike("create", math.inf)
        if key in self._blobs:
            raise BlobBusy(f"there is something under {key} already")
        blob = self._blobs[key] = _Blob(bytearray())
        return MemoryWriter(self, key, blob)

    async def resume(self, state: bytes) -> MemoryWriter:
        """See `BlobStore.resume`. A blob that was committed since can only be committed again, at its whole size."""
        try:
            saved = msgspec.json.decode(state, type=_State)
        except ValueError as error:
            raise BlobLost(f"the upload's state is none of a memory store: {error}") from None
        await anyio.lowlevel.checkpoint()
        self.strike("resume", saved.offset)
        blob = self._blobs.get(saved.key)
        if blob is None or not 0 <= saved.offset <= blob.durable:
            raise BlobLost(f"the upload {saved.key} is not there any more, or not up to {saved.offset}")
        if blob.writer is not None:
            raise BlobBusy(f"another writer has {saved.key} open")
        if blob.final and saved.offset != len(blob.content):
            raise BlobLost(f"the upload {saved.key} has become a blob of {len(blob.content)} bytes")
        del blob.content[saved.offset :]
        blob.durable = saved.offset
        return MemoryWriter(self, saved.key, blob)

    async def open(self, span: Span) -> MemoryContent:
        """See `BlobStore.open`. Raises ValueError for no key."""
        check_key(span.key)
        await anyio.lowlevel.checkpoint()
        self.strike("open", math.inf)
        content = self._existing(span.key).content
        return MemoryContent(self, bytes(content[span.start : span.stop]), span.start)

    async def size(self, key: str) -> int:
        """See `BlobStore.size`. Raises ValueError for no key."""
        check_key(key)
        await anyio.lowlevel.checkpoint()
        return len(self._existing(key).content)

    async def delete(self, key: str) -> None:
        """See `BlobStore.delete`. Raises ValueError for no key."""
        check_key(key)
        await anyio.lowlevel.checkpoint()
        self.remove(key)

    async def discard(self, state: bytes) -> None:
        """Remove an upload that is not open; never a blob. Raises BlobBusy."""
        await anyio.lowlevel.checkpoint()
        try:
            key = msgspec.json.decode(state, type=_State).key
        except ValueError:
            return
        blob = self._blobs.get(key)
        if blob is None or blob.final:
            return
        if blob.writer is not None:
            raise BlobBusy(f"another writer has {key} open")
        self.remove(key)

    async def url(self, span: Span, expires: float) -> str | None:
        """None: memory has no addresses."""
        return None

    async def aclose(self) -> None:
        """Let go of all uploads."""
        await anyio.lowlevel.checkpoint()
        self.crash()

    def strike(self, op: Operation, reached: float) -> None:
        """Raise the fault that was ordered for ``op`` at ``reached`` bytes, if there is one."""
        for fault in self._faults:
            if fault.operation == op and reached >= fault.after_bytes:
                fault.times -= 1
                if fault.times < 1:
                    self._faults.remove(fault)
                raise fault.error if isinstance(fault.error, Exception) else fault.error(f"{op}: an ordered fault")

    def holds(self, key: str, blob: _Blob) -> bool:
        """Whether ``blob`` is still what is stored under ``key``."""
        return self._blobs.get(key) is blob

    def remove(self, key: str) -> None:
        """Forget what is stored under ``key``, if anything is."""
        self._blobs.pop(key, None)

    def _existing(self, key: str) -> _Blob:
        if key not in self._blobs:
            raise BlobMissing(f"nothing is stored under {key}")
        return self._blobs[key]


class MemoryWriter:
    """A `BlobWriter`. `MemoryStore.create` and `MemoryStore.resume` make it."""

    def __init__(self, store: MemoryStore, key: str, blob: _Blob) -> None:
        self.inline = store.inline
        self.offset = len(blob.content)
        self.durable = self.offset
        self._store = store
        self._key = key
        self._blob = blob
        self._part_start = self.offset
        self.boundary: int | None = None if store.parts is None else self.offset + store.parts
        self._ended = False
        self._committed = False
        self._part_lost = False
        blob.writer = self

    async def write(self, data: Chunk) -> None:
        """See `BlobWriter.write`. An inline writer takes ``data`` at once, another one just before it returns."""
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._check()
        if self.boundary is not None and self.offset + size > self.boundary:
            raise ValueError(f"a write of {size} bytes at {self.offset} crosses the boundary at {self.boundary}")
        if self._blob.final:
            raise BlobLost(f"{self._key} has been committed with {self.offset} bytes")
        if not self.inline:
            await anyio.lowlevel.checkpoint()
            self._check()
        try:
            self._store.strike("write", self.offset + size - 1)
        except Exception:
            self._part_lost = self._store.parts is not None
            if self.inline:
                await anyio.lowlevel.checkpoint()
            raise
        self._blob.content += data
        self.offset += size
        if self.offset == self.boundary and self._store.parts is not None:
            self._make_durable()
            self.boundary = self.offset + self._store.parts
        if self.inline:
            await anyio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """See `BlobWriter.flush`. With parts it makes nothing durable."""
        self._check()
        target = self.offset
        await anyio.lowlevel.checkpoint()
        self._check()
        self._store.strike("flush", self.offset)
        if self._store.parts is None:
            self.durable = self._blob.durable = max(self.durable, target)

    def state(self, durable: int) -> bytes:
        """See `BlobWriter.state`. Raises ValueError for an offset that never was durable."""
        if not 0 <= durable <= self.durable:
            raise ValueError(f"{self._key} is durable up to {self.durable}, not {durable}")
        return msgspec.json.encode(_State(self._key, durable))

    async def suspend(self) -> int:
        """See `BlobWriter.suspend`. Cancelled: the upload is let go of all the same."""
        if self._ended:
            await anyio.lowlevel.checkpoint()
            return self.durable
        try:
            await anyio.lowlevel.checkpoint()
            self._store.strike("suspend", self.offset)
            if self._store.parts is None:
                self._make_durable()
        except Exception:
            pass  # an ordered fault
        finally:
            self.die()
        return self.durable

    async def commit(self) -> None:
        """See `BlobWriter.commit`. Cancelled at its end, the blob is whole."""
        await anyio.lowlevel.checkpoint()
        if self._committed:
            return
        self._check()
        self._store.strike("commit", self.offset)
        if not self._store.holds(self._key, self._blob):
            raise BlobUnavailable(f"{self._key} was removed under its writer")
        self._make_durable()
        self._blob.final = True
        self._committed = True
        self.die()
        await anyio.lowlevel.checkpoint()

    async def abort(self) -> None:
        """See `BlobWriter.abort`."""
        await anyio.lowlevel.checkpoint()
        if self._ended:
            return
        self._store.strike("abort", self.offset)
        if not self._blob.final:
            self._store.remove(self._key)
        self.die()

    def die(self) -> None:
        """Let go of the upload; what is not durable is lost."""
        if not self._ended:
            self._ended = True
            self._blob.writer = None
            del self._blob.content[self._blob.durable :]

    def _make_durable(self) -> None:
        self.durable = self._blob.durable = self.offset

    def _check(self) -> None:
        if self._ended:
            raise RuntimeError(f"the writer of {self._key} has ended")
        if self._part_lost:
            raise BlobUnavailable(f"a part of {self._key} was lost: it goes on from {self.durable}")


class MemoryContent:
    """Bytes that were stored when it was opened."""

    def __init__(self, store: MemoryStore, content: bytes, start: int) -> None:
        self.file: int | None = None
        self.start = 0
        self.length = len(content)
        self._store = store
        self._content = content
        self._offset = start
        self._at = 0

    def __aiter__(self) -> MemoryContent:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes, at most `READ_BYTES`. Cancelled: they come with the next call."""
        await anyio.lowlevel.checkpoint()
        data = self._content[self._at : self._at + READ_BYTES]
        if not data:
            raise StopAsyncIteration
        self._store.strike("read", self._offset + self._at + len(data) - 1)
        self._at += len(data)
        return data

    async def aclose(self) -> None:
        """Forget the bytes. Does not suspend."""
        self._content = b""

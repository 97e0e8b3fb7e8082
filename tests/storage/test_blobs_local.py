"""Blobs on a local disk: the suite, and what only a disk, other processes and a kill can show."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
import trio.testing

from enseada.http import Span
from enseada.storage.blobs import files
from enseada.storage.blobs.base import BlobBusy, BlobLost, BlobMissing, BlobUnavailable
from enseada.storage.blobs.folders import SharedSync
from enseada.storage.blobs.keys import KEYS_PER_BUCKET, check_key
from enseada.storage.blobs.local import MEASURE_BYTES, LocalStore
from enseada.storage.blobs.localwriter import WINDOW_BYTES
from tests.nobody import as_nobody
from tests.storage.blob_suite import BlobSuite, payload, put, read, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.blobs.localwriter import LocalWriter

WINDOW = 64 * 1024


class TestLocal(BlobSuite):
    size = 300_000  # more than one chunk of a read

    async def make(self, folder: Path) -> BlobStore:
        return await LocalStore.at(folder / "blobs", window=512 * 1024)


class TestLocalWithSmallWindows(BlobSuite):
    size = 150_000

    async def make(self, folder: Path) -> BlobStore:
        return await LocalStore.at(folder / "blobs", window=WINDOW)


class TestLocalOverItsLimitOfDirtyBytes(BlobSuite):
    size = 150_000

    async def make(self, folder: Path) -> BlobStore:
        return await LocalStore.at(folder / "blobs", window=WINDOW, most_dirty=20_000)


def open_descriptors() -> set[str]:
    """The blobs' files that this process has open (nothing where the system does not say)."""
    found = set()
    with suppress(FileNotFoundError):
        for number in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {path for path in found if "/blobs" in path}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    before = open_descriptors()
    store = await LocalStore.at(tmp_path / "blobs", window=WINDOW)
    yield store
    await store.aclose()
    assert open_descriptors() <= before, "a descriptor was left open"
    assert store.dirty == 0, "there is nobody whose bytes these are"


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


# -- the folder


async def test_folders_are_made_ahead_and_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = await LocalStore.at(tmp_path / "data" / "blobs")
        key = store.new_key()
        writer = await store.create(key, None)
    finally:
        os.umask(old)
    folder = tmp_path / "data" / "blobs"
    assert sorted(os.listdir(folder)) == [f"{number:02x}" for number in range(256)]
    assert {mode(path) for path in (tmp_path / "data", folder, *folder.iterdir())} == {0o700}
    assert mode(store.path(key)) == 0o600
    await writer.commit()
    assert mode(store.path(key)) == 0o400


async def test_a_folder_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir(mode=0o750)
    folder.chmod(0o750)
    key = await put(await LocalStore.at(folder), b"data")
    (folder / "07").rmdir() if key[:2] != "07" else (folder / "08").rmdir()
    again = await LocalStore.at(str(folder))
    assert mode(folder) == 0o750
    assert len(os.listdir(folder)) == 256
    assert await read(again, Span(key)) == b"data"


async def test_a_folder_that_cannot_be_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "blobs"):
        with pytest.raises(BlobUnavailable, match=r"cannot be kept in .*file.*: "):
            await LocalStore.at(folder)


async def test_a_path_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = await LocalStore.at("blobs")
    monkeypatch.chdir("/")
    assert await read(store, Span(await put(store, b"data"))) == b"data"


async def test_keys_stay_in_one_bucket_for_a_while(store: LocalStore) -> None:
    keys = [check_key(store.new_key()) for _ in range(3 * KEYS_PER_BUCKET)]
    assert len(set(keys)) == len(keys)
    for at in range(0, len(keys), KEYS_PER_BUCKET):
        assert len({key[:2] for key in keys[at : at + KEYS_PER_BUCKET]}) == 1


async def test_what_is_there_is_not_written_over(store: LocalStore) -> None:
    key = await put(store, b"data")
    with pytest.raises(BlobBusy):
        await store.create(key, None)
    assert await read(store, Span(key)) == b"data"


# -- unprivileged: root may write what is read-only, and everybody else may not


async def test_a_blob_is_safe_and_can_be_removed_without_privileges() -> None:
    with as_nobody() as folder:
        store = await LocalStore.at(folder / "blobs")
        key = store.new_key()
        writer = await store.create(key, None)
        await write(writer, b"da")
        await writer.flush()
        await write(writer, b"ta")
        await writer.commit()
        with pytest.raises(PermissionError):
            os.open(store.path(key), os.O_WRONLY)
        with pytest.raises(BlobLost):
            await store.resume(writer.state(2))
        await store.discard(writer.state(2))
        await (await store.resume(writer.state(4))).commit()
        assert await read(store, Span(key)) == b"data"
        await store.delete(key)
        with pytest.raises(BlobMissing):
            await store.size(key)


async def test_a_folder_that_may_not_be_written_is_refused() -> None:
    with as_nobody() as folder:
        await LocalStore.at(folder / "blobs")
        (folder / "blobs").chmod(0o500)
        with pytest.raises(BlobUnavailable, match="Permission denied"):
            await LocalStore.at(folder / "blobs")
        (folder / "blobs").chmod(0o700)


# -- the disk: when is it waited for


async def test_a_write_does_not_suspend_before_the_boundary(store: LocalStore) -> None:
    writer = await store.create(store.new_key(), None)
    for _ in range(3):
        with pytest.raises(StopIteration):
            writer.write(b"x" * 1000).send(None)
    assert (writer.offset, writer.durable, store.file_syncs) == (3000, 0, 0)
    await writer.abort()


async def test_at_the_boundary_the_disk_is_waited_for(store: LocalStore) -> None:
    writer = await store.create(store.new_key(), None)
    assert writer.boundary == WINDOW
    await writer.write(bytes(WINDOW))
    assert (writer.durable, writer.boundary, store.file_syncs, store.folder_syncs) == (WINDOW, 2 * WINDOW, 1, 1)
    await writer.write(bytes(WINDOW))
    assert (writer.durable, store.file_syncs, store.folder_syncs) == (2 * WINDOW, 2, 1)
    await writer.flush()
    assert store.file_syncs == 2, "there was nothing to do"
    await writer.abort()


async def test_a_wait_that_was_cancelled_is_made_up_for(store: LocalStore) -> None:
    key = store.new_key()
    writer = await store.create(key, None)
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.write(payload(WINDOW))
    assert scope.cancelled_caught
    assert (writer.offset, writer.durable) == (WINDOW, 0)
    await writer.write(b"more")
    assert (writer.offset, writer.durable) == (WINDOW + 4, WINDOW)
    await writer.commit()
    assert await read(store, Span(key)) == payload(WINDOW) + b"more"


async def test_who_lost_the_file_while_it_made_up_for_a_wait_writes_nothing(store: LocalStore) -> None:
    writer = await store.create(store.new_key(), None)
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.write(bytes(WINDOW))
    store._limiter.total_tokens = 1
    await store._limiter.acquire_on_behalf_of("the test")

    async def go_on() -> None:
        with pytest.raises(RuntimeError, match="ended"):
            await writer.write(b"more")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        await trio.testing.wait_all_tasks_blocked()
        await store.aclose()
        store._limiter.release_on_behalf_of("the test")
    assert os.stat(writer._path).st_size == WINDOW


async def test_all_uploads_together_leave_few_bytes_that_are_not_on_the_disk(tmp_path: Path) -> None:
    store = await LocalStore.at(tmp_path / "blobs", window=10 * WINDOW, most_dirty=4 * WINDOW)
    writers = [await store.create(store.new_key(), None) for _ in range(8)]
    for writer in writers[:4]:
        with pytest.raises(StopIteration):
            writer.write(bytes(WINDOW)).send(None)
    assert (store.dirty, store.file_syncs) == (4 * WINDOW, 0)

    async def upload(writer: LocalWriter, seed: int) -> None:
        for part in range(5):
            await write(writer, payload(WINDOW, seed + part))
            assert store.dirty <= (4 + len(writers)) * WINDOW  # each has one write that is waited for

    async with trio.open_nursery() as nursery:
        for seed, writer in enumerate(writers[4:]):
            nursery.start_soon(upload, writer, seed)
    assert store.dirty <= 4 * WINDOW
    assert store.dirty == sum(writer.offset - writer.durable for writer in writers)
    durable = writers[4].durable
    assert durable == 5 * WINDOW, "long before the window's end"
    resumed = await store.resume(writers[4].state(await writers[4].suspend()))
    await resumed.commit()
    await writers[0].abort()
    await writers[1].flush()
    await writers[2].commit()
    assert store.dirty == sum(writer.offset - writer.durable for writer in (writers[3], *writers[5:]))
    before = store.file_syncs
    await writers[5].write(b"more")
    assert store.file_syncs == before, "there is room again"
    await store.aclose()
    assert store.dirty == 0


async def test_a_wait_for_the_disk_on_behalf_of_all_takes_the_chunk_first(tmp_path: Path) -> None:
    store = await LocalStore.at(tmp_path / "blobs", window=WINDOW, most_dirty=1000)
    writer = await store.create(store.new_key(), None)
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.write(payload(1001))
    assert scope.cancelled_caught
    assert (writer.offset, writer.durable, store.dirty) == (1001, 0, 1001)
    await writer.write(b"more")
    assert (writer.offset, writer.durable, store.dirty) == (1005, 1005, 0)
    await writer.abort()


async def test_large_uploads_are_written_back_on_the_way(tmp_path: Path) -> None:
    store = await LocalStore.at(tmp_path)
    writer = await store.create(store.new_key(), None)
    chunk = bytes(1024 * 1024)
    for _ in range(WINDOW_BYTES // len(chunk) + 1):
        await writer.write(chunk)
    assert (writer.durable, writer.boundary) == (WINDOW_BYTES, 2 * WINDOW_BYTES)
    await writer.abort()


def test_starting_to_write_back_harms_nothing_where_it_cannot_be_done() -> None:
    reader, writer = os.pipe()
    try:
        files.start_writeback(writer, 0, 100)
    finally:
        os.close(reader)
        os.close(writer)


async def test_commit_waits_for_the_disk(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced whole, with the mode that makes it a blob, and then its folder."""
    done = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        status = os.fstat(fd)
        done.append("folder" if stat.S_ISDIR(status.st_mode) else (status.st_size, stat.S_IMODE(status.st_mode)))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    await put(store, payload(1000))
    assert done == [(1000, 0o400), "folder"]
    assert (store.file_syncs, store.folder_syncs) == (1, 1)


async def test_a_name_is_made_durable_once(store: LocalStore) -> None:
    """As where a layer comes by PATCH, and is committed by a PUT."""
    key = store.new_key()
    writer = await store.create(key, None)
    await write(writer, payload(1000))
    state = writer.state(await writer.suspend())
    assert (store.file_syncs, store.folder_syncs) == (1, 1)
    await (await store.resume(state)).commit()
    assert (store.file_syncs, store.folder_syncs) == (2, 1)
    assert mode(store.path(key)) == 0o400
    empty = await store.create(store.new_key(), None)
    await (await store.resume(empty.state(await empty.suspend()))).commit()
    assert store.folder_syncs == 3, "nothing tells that the name of one without bytes was ever made durable"


async def test_commits_that_wait_share_a_folders_fsync(store: LocalStore) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(put, store, payload(10, number))
    assert store.file_syncs == 50
    assert 1 <= store.folder_syncs < 50


class TestSharedSync:
    async def test_all_who_came_meanwhile_share_the_next(self, tmp_path: Path) -> None:
        limiter = anyio.CapacityLimiter(1)
        shared = SharedSync(limiter)
        await limiter.acquire_on_behalf_of("the test")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shared.sync, str(tmp_path))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(9):
                nursery.start_soon(shared.sync, str(tmp_path))
            await trio.testing.wait_all_tasks_blocked()
            assert shared.count == 0
            limiter.release_on_behalf_of("the test")
        assert shared.count == 2

    async def test_another_takes_over_when_the_first_is_cancelled(self, tmp_path: Path) -> None:
        limiter = anyio.CapacityLimiter(1)
        shared = SharedSync(limiter)
        await limiter.acquire_on_behalf_of("the test")
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await shared.sync(str(tmp_path))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(shared.sync, str(tmp_path))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            limiter.release_on_behalf_of("the test")
        assert scope.cancelled_caught
        assert shared.count == 1

    async def test_a_failure_is_everybodys_who_waited_for_that_fsync(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiter = anyio.CapacityLimiter(1)
        shared = SharedSync(limiter)
        outcomes = []

        async def sync() -> None:
            try:
                await shared.sync(str(tmp_path))
                outcomes.append("durable")
            except BlobUnavailable:
                outcomes.append("failed")

        await limiter.acquire_on_behalf_of("the test")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked()
            Failing(monkeypatch, "fsync", 2)  # the first one's, and that of the three; a third would succeed
            limiter.release_on_behalf_of("the test")
        assert outcomes == ["failed"] * 4
        await sync()
        assert outcomes[4:] == ["durable"]

    async def test_folders_do_not_wait_for_each_other(self, tmp_path: Path) -> None:
        shared = SharedSync(anyio.CapacityLimiter(8))
        async with trio.open_nursery() as nursery:
            for name in "abc":
                (tmp_path / name).mkdir()
                nursery.start_soon(shared.sync, str(tmp_path / name))
        assert shared.count == 3


# -- the disk fails


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: the next write is short, the one after it fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_write_that_finds_no_room_takes_nothing(store: LocalStore) -> None:
    key = store.new_key()
    writer = await store.create(key, None)
    await write(writer, payload(50_000))
    with file_size_limit(60_000):
        for _ in range(2):
            with pytest.raises(BlobUnavailable, match=key):
                await write(writer, payload(15_000))
            assert writer.offset == 50_000
            assert await store.size(key) == 50_000, "what was written of it is cut off again"
        await write(writer, payload(10_000, 2))
    await write(writer, b"more")
    await writer.commit()
    assert await read(store, Span(key)) == payload(50_000) + payload(10_000, 2) + b"more"


async def test_short_writes_are_completed(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    key = await put(store, payload(100))
    assert await read(store, Span(key)) == payload(100)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    writer = await store.create(store.new_key(), None)
    with pytest.raises(BlobUnavailable):
        await writer.write(b"data")
    assert writer.offset == 0
    await writer.abort()


async def test_uploads_leave_a_reserve(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    for reserve, length in ((2**60, None), (2**60, 0), (0, 2**60)):
        store = await LocalStore.at(tmp_path / "blobs", reserve=reserve)
        key = store.new_key()
        with pytest.raises(BlobUnavailable, match="full"):
            await store.create(key, length)
        with pytest.raises(BlobMissing):
            await store.size(key)
    writer = await store.create(store.new_key(), free // 2)
    await writer.abort()


class SmallDisk:
    """A disk with so many bytes free, less what is in the files of a folder; everything else on it is real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, size: int) -> None:
        self.size = size
        self._folder = folder
        self._statvfs = os.statvfs
        monkeypatch.setattr(os, "statvfs", self)

    @property
    def free(self) -> int:
        return self.size - sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

    def __call__(self, path: str) -> os.statvfs_result:
        found = list(self._statvfs(path))
        found[1], found[4] = 1, self.free  # f_frsize, f_bavail
        return os.statvfs_result(found)


async def test_uploads_of_unknown_length_leave_the_reserve_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await LocalStore.at(tmp_path / "blobs", reserve=4 * MEASURE_BYTES)
    disk = SmallDisk(monkeypatch, tmp_path, 6 * MEASURE_BYTES)
    writers = [await store.create(store.new_key(), None) for _ in range(8)]
    chunk = payload(MEASURE_BYTES // 4)
    refused = 0
    for _ in range(4):
        for writer in writers:
            before = writer.offset
            try:
                await write(writer, chunk)
            except BlobUnavailable:
                refused += 1
                assert writer.offset == before
    assert sum(writer.offset for writer in writers) >= MEASURE_BYTES, "what is not reserved may be used"
    assert disk.free >= 3 * MEASURE_BYTES
    assert refused > 16
    saved = [(await writer.suspend(), writer.offset) for writer in writers]
    assert all(durable == offset for durable, offset in saved), "nothing that was taken is lost"
    for writer, (durable, _) in zip(writers, saved, strict=True):
        with pytest.raises(BlobUnavailable, match="the disk is full"):
            await store.resume(writer.state(durable))
        assert os.stat(writer._path).st_size == durable
    disk.size *= 2
    resumed = await store.resume(writers[0].state(saved[0][0]))
    await write(resumed, b"more")
    await resumed.commit()
    disk.size = 0
    await (await store.resume(resumed.state(resumed.offset))).commit()  # a blob needs no room to be one
    await store.aclose()


async def test_going_back_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await LocalStore.at(tmp_path / "blobs", reserve=1000)
    writer = await store.create(store.new_key(), None)
    await write(writer, payload(500))
    await writer.suspend()
    SmallDisk(monkeypatch, tmp_path, 1400)
    with pytest.raises(BlobUnavailable, match="the disk is full"):
        await store.resume(writer.state(450))
    resumed = await store.resume(writer.state(400))
    await resumed.abort()


async def test_an_upload_goes_on_when_the_disk_cannot_be_asked_for_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.at(tmp_path / "blobs")
    writer = await store.create(store.new_key(), None)
    Failing(monkeypatch, "statvfs", 2)
    with pytest.raises(BlobUnavailable, match="Input/output"):
        await store.create(store.new_key(), None)
    with pytest.raises(BlobUnavailable, match="Input/output"):
        await writer.write(bytes(MEASURE_BYTES))
    assert writer.offset == 0
    await writer.write(bytes(MEASURE_BYTES))
    await writer.abort()


class Failing:
    """A system call that fails with EIO as often as told, and is itself again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, times: int = 1) -> None:
        self.times = times
        self._call = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args: Any) -> Any:
        if self.times:
            self.times -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._call(*args)


async def test_what_a_failed_fsync_was_for_never_becomes_durable(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a lost page once. The next fsync would succeed, and would be a lie."""
    key = store.new_key()
    writer = await store.create(key, None)
    await write(writer, payload(100))
    await writer.flush()
    await write(writer, payload(100, 1))
    Failing(monkeypatch, "fdatasync")
    with pytest.raises(BlobUnavailable, match="Input/output"):
        await writer.flush()
    for call in (writer.flush(), writer.commit(), writer.write(b"more")):
        with pytest.raises(BlobUnavailable, match="Input/output"):
            await call
    assert (writer.durable, await writer.suspend()) == (100, 100)
    resumed = await store.resume(writer.state(100))
    await write(resumed, payload(100, 2))
    await resumed.commit()
    assert await read(store, Span(key)) == payload(100) + payload(100, 2)


async def test_suspend_gives_up_what_cannot_be_made_durable(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await store.create(store.new_key(), None)
    await write(writer, payload(WINDOW + 100))
    Failing(monkeypatch, "fdatasync")
    assert await writer.suspend() == WINDOW
    resumed = await store.resume(writer.state(WINDOW))
    assert resumed.offset == WINDOW
    await resumed.abort()


async def test_a_commit_that_failed_leaves_an_upload(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.new_key()
    writer = await store.create(key, None)
    await write(writer, payload(100))
    await writer.flush()
    Failing(monkeypatch, "fsync")
    with pytest.raises(BlobUnavailable):
        await writer.commit()
    assert mode(store.path(key)) == 0o600
    resumed = await store.resume(writer.state(await writer.suspend()))
    await write(resumed, b"more")
    await resumed.commit()
    assert await read(store, Span(key)) == payload(100) + b"more"


async def test_what_was_removed_under_its_writer_cannot_be_committed(store: LocalStore) -> None:
    key = store.new_key()
    writer = await store.create(key, None)
    await write(writer, b"data")
    await store.delete(key)
    with pytest.raises(BlobUnavailable):
        await writer.commit()
    await writer.abort()


def cut(path: str, size: int) -> None:
    """Do to a blob what a broken disk may do, also where we are not root."""
    os.chmod(path, 0o600)
    os.truncate(path, size)


async def test_other_failures_are_the_stores(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await put(store, payload(100))
    content = await store.open(Span(key))
    Failing(monkeypatch, "pread")
    with pytest.raises(BlobUnavailable, match="Input/output"):
        await content.__anext__()
    cut(store.path(key), 0)
    with pytest.raises(BlobUnavailable, match="end before"):
        await content.__anext__()
    await content.aclose()
    with pytest.raises(ValueError, match="closed"):
        await content.__anext__()
    Failing(monkeypatch, "unlink")
    with pytest.raises(BlobUnavailable):
        await store.delete(key)
    Failing(monkeypatch, "stat")
    with pytest.raises(BlobUnavailable):
        await store.size(key)
    failing = Failing(monkeypatch, "open", 3)
    with pytest.raises(BlobUnavailable):
        await store.open(Span(key))
    with pytest.raises(BlobUnavailable):
        await store.create(store.new_key(), None)
    failing.times = 0
    writer = await store.create(store.new_key(), None)
    state = writer.state(await writer.suspend())
    for call in (store.resume, store.discard):
        failing.times = 1
        with pytest.raises(BlobUnavailable):
            await call(state)
    writer = await store.resume(state)
    Failing(monkeypatch, "unlink")
    with pytest.raises(BlobUnavailable):
        await writer.abort()
    await store.discard(state)


async def test_the_length_is_that_of_what_is_there(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await put(store, payload(100))
    cut(store.path(key), 60)
    for start, stop, length in ((0, 100, 60), (0, None, 60), (50, 100, 10), (60, 100, 0), (80, 100, 0), (10, 20, 10)):
        content = await store.open(Span(key, start, stop))
        assert content.length == length
        assert content.file is not None
        assert len(os.pread(content.file, length + 1, content.start)[:length]) == length
        await content.aclose()
        assert await read(store, Span(key, start, stop)) == payload(100)[:60][start:stop]
    Failing(monkeypatch, "fstat")
    with pytest.raises(BlobUnavailable, match="Input/output"):
        await store.open(Span(key))


# -- several who have it


async def test_a_file_removed_between_its_opening_and_its_locking_is_lost(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await store.create(store.new_key(), None)
    state = writer.state(await writer.suspend())
    lock = files.lock

    def late(fd: int, key: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(store.path(key))
        lock(fd, key)

    monkeypatch.setattr(files, "lock", late)
    with pytest.raises(BlobLost):
        await store.resume(state)


async def test_the_store_may_be_closed_while_a_thread_has_a_file(store: LocalStore) -> None:
    writer = await store.create(store.new_key(), None)
    await write(writer, b"data")
    limiter = store._limiter
    limiter.total_tokens = 1
    await limiter.acquire_on_behalf_of("the test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.flush)
        await trio.testing.wait_all_tasks_blocked()
        await store.aclose()
        with pytest.raises(BlobBusy):
            await store.resume(writer.state(0))  # the thread to come has it still
        limiter.release_on_behalf_of("the test")
    assert (writer.durable, store.dirty) == (4, 0)
    limiter.total_tokens = 8
    resumed = await store.resume(writer.state(4))
    await resumed.abort()


async def test_what_comes_too_late_says_so(store: LocalStore) -> None:
    writer = await store.create(store.new_key(), None)
    await writer.suspend()
    for call in (writer.write(b"x"), writer.flush(), writer.commit()):
        with pytest.raises(RuntimeError, match="ended"):
            await call


PROGRAM = """
import sys, anyio
from enseada.storage.blobs.local import LocalStore
from tests.storage.blob_suite import payload

async def main():
    store = await LocalStore.at(sys.argv[1], window=65536)
    writer = await store.create(store.new_key(), None)
    data = payload(4_000_000)
    for at in range(0, len(data), 4096):
        await writer.write(data[at : at + 4096])
        if at % 3 == 0:
            await writer.flush()
        print(writer.durable, writer.state(writer.durable).decode(), flush=True)
    sys.stdin.read()

anyio.run(main, backend="trio")
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes the bytes of `payload` and says what of them is durable, until its input is closed."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def stored_keys(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.glob("*/*")]


def said(process: subprocess.Popen[str]) -> tuple[int, bytes]:
    assert process.stdout is not None
    durable, state = process.stdout.readline().split(" ", 1)
    return int(durable), state.encode()


async def test_an_upload_that_another_process_has_is_busy(tmp_path: Path) -> None:
    store = await LocalStore.at(tmp_path)
    with another_process(tmp_path) as process:
        while not (saved := said(process))[0]:
            pass
        durable, state = saved
        with pytest.raises(BlobBusy):
            await store.resume(state)
        with pytest.raises(BlobBusy):
            await store.discard(state)
    writer = await store.resume(state)
    assert writer.offset == durable
    await writer.abort()


@pytest.mark.parametrize("lines", [1, 50, 300])
async def test_killed_in_the_middle_it_goes_on_at_the_last_durable_byte(tmp_path: Path, lines: int) -> None:
    with another_process(tmp_path) as process:
        for _ in range(lines):
            durable, state = said(process)
        process.send_signal(signal.SIGKILL)  # while it writes on
        assert process.stdout is not None
        rest = process.stdout.read().splitlines(keepends=True)
        assert process.wait() == -signal.SIGKILL
    store = await LocalStore.at(tmp_path)
    for line in rest:
        if line.endswith("}\n"):
            durable, state = int(line.split()[0]), line.split(" ", 1)[1].encode()
    writer = await store.resume(state)
    assert writer.offset == durable
    data = payload(4_000_000)
    (key,) = stored_keys(tmp_path)
    assert await read(store, Span(key)) == data[:durable]
    await write(writer, data[durable:])
    await writer.commit()
    assert await read(store, Span(key)) == data

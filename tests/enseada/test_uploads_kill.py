"""kill -9 in the middle of a PATCH or a PUT, on the local disk and SQLite: the client goes on where GET says."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enseada.protocols.digests import Digest
from enseada.protocols.oci.upload import Input
from enseada.storage.documents.base import Document
from enseada.storage.documents.sqlite import SQLiteStore
from tests.enseada import upload_child
from tests.enseada.upload_world import LentBody, payload

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = payload(1_000_000)
DIGEST = Digest.of(CONTENT)
PIPE_BYTES = 64 * 1024
"""What a pipe holds that nobody has read (pipe(7))."""
AT_MOST_LOST = upload_child.SAVE_BYTES + upload_child.WINDOW + upload_child.CHUNK + PIPE_BYTES


class Child:
    """A process that takes a request; the content is written to its pipe as far as one likes. It ends by kill -9."""

    def __init__(self, folder: Path, method: str, nonce: str) -> None:
        arguments = [sys.executable, upload_child.__file__, str(folder), method, nonce, str(DIGEST)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )

    def __enter__(self) -> Child:
        assert self.said() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def said(self) -> bytes:
        """Its next line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def send(self, content: bytes, *, end: bool = False) -> None:
        """Returns when all of it but `PIPE_BYTES` has been read. ``end``: that is all."""
        assert self._process.stdin is not None
        view = memoryview(content)
        while view:
            view = view[self._process.stdin.write(view) :]
        if end:
            self._process.stdin.close()


def final_files(folder: Path) -> int:
    """How many blobs are committed."""
    paths = (folder / "blobs").glob("*/*")
    return sum(not path.stat().st_mode & 0o200 for path in paths)


async def offset(folder: Path, nonce: str) -> int:
    """What GET says after a restart; and that these bytes are there."""
    async with await SQLiteStore.open(folder / "documents") as documents:
        uploads = await upload_child.open_uploads(folder, documents)
        session = upload_child.session_of(nonce)
        at = await uploads.offset(session)
        document = await documents.get(session.document_id)
        if document is not None:
            path = folder / "blobs" / document.data["key"]
            assert path.read_bytes()[:at] == CONTENT[:at]
        return at


async def finish(folder: Path, nonce: str) -> None:
    """Send the rest, in this process, and read the blob."""
    async with await SQLiteStore.open(folder / "documents") as documents:
        uploads = await upload_child.open_uploads(folder, documents)
        session = upload_child.session_of(nonce)
        link = Document(f"link:{DIGEST}", {})
        if await documents.get(link.id) is None:
            at = await uploads.offset(session)
            span = (at, len(CONTENT)) if at < len(CONTENT) else None
            body = LentBody(CONTENT[at:], [300_000])
            length = len(CONTENT) - at
            async with uploads.open(session, Input.PUT, span=span, length=length, algorithm="sha256") as upload:
                await upload.receive(body)
                await upload.finish(DIGEST, [link])
        content = await uploads.blobs.open(DIGEST)
        assert b"".join([chunk async for chunk in content]) == CONTENT
        await content.aclose()


async def test_a_patch_that_is_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(secrets.randbits(32))
    nonce = secrets.token_hex(12)
    at = 0
    for _ in range(4):
        sent = chance.randrange(at, len(CONTENT) - 1)
        with Child(tmp_path, "PATCH", nonce) as child:
            child.send(CONTENT[at:sent])
        before, at = at, await offset(tmp_path, nonce)
        assert max(before, sent - AT_MOST_LOST) <= at <= sent
    await finish(tmp_path, nonce)


@pytest.mark.parametrize("moment", ["at once", "final"])
@pytest.mark.parametrize("before", [0, 200_000])
async def test_a_put_that_is_killed_at_its_end(tmp_path: Path, before: int, moment: str) -> None:
    """At once: when its last bytes come. Final: when the blob is committed, and its documents may not be written."""
    nonce = secrets.token_hex(12)
    if before:
        with Child(tmp_path, "PATCH", nonce) as child:
            child.send(CONTENT[:before], end=True)
            assert child.said() == b"answered\n"
        assert await offset(tmp_path, nonce) == before
    with Child(tmp_path, "PUT", nonce) as child:
        child.send(CONTENT[before:], end=True)
        while moment == "final" and child.runs and not final_files(tmp_path):
            pass
    await finish(tmp_path, nonce)

"""A process that takes one upload from a pipe, to be killed at any time by tests/enseada/test_uploads_kill.py.

Arguments: the data folder, PATCH or PUT, the session's nonce (hexadecimal), the digest. It reads the request's content
on standard input, and writes a line when it is ready, and when it has answered.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from enseada.blobs import Blobs
from enseada.protocols.digests import Digest
from enseada.protocols.oci.session import Session
from enseada.protocols.oci.upload import Input
from enseada.storage.blobs.local import LocalStore
from enseada.storage.documents.base import Document
from enseada.storage.documents.sqlite import SQLiteStore
from enseada.uploads import UploadPolicy, Uploads

NAME = "team/app"
CREATED = 1_790_000_000
WINDOW = 64 * 1024
SAVE_BYTES = 128 * 1024
CHUNK = 32 * 1024


class PipeBody:
    """Standard input."""

    def __init__(self) -> None:
        self.length: int | None = None
        self._stream = trio.lowlevel.FdStream(os.dup(0))

    def __aiter__(self) -> PipeBody:
        return self

    async def __anext__(self) -> bytes:
        data = await self._stream.receive_some(CHUNK)
        if not data:
            raise StopAsyncIteration
        return bytes(data)


def session_of(nonce: str) -> Session:
    return Session(NAME, CREATED, "sha256", bytes.fromhex(nonce))


async def open_uploads(folder: Path, documents: SQLiteStore) -> Uploads:
    """Uploads over what is in the folder."""
    store = await LocalStore.at(folder / "blobs", window=WINDOW)
    return Uploads(documents, Blobs(documents, store), UploadPolicy(save_bytes=SAVE_BYTES), lambda: float(CREATED))


async def main(folder: Path, method: str, nonce: str, digest: Digest) -> None:
    async with await SQLiteStore.open(folder / "documents") as documents:
        uploads = await open_uploads(folder, documents)
        print("ready", flush=True)
        async with uploads.open(session_of(nonce), Input[method]) as upload:
            await upload.receive(PipeBody())
            if method == "PUT":
                await upload.finish(digest, [Document(f"link:{digest}", {})])
        print("answered", flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2], sys.argv[3], Digest.parse(sys.argv[4]))

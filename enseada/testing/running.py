"""A registry in memory that runs in a thread of its own, behind a port of its own, for as long as a test needs it.

One rule: nothing of it is a fake but what it remembers. The connection loop, the formats, the accounts and the tokens
are those of `enseada serve`; only passwords are hashed as cheaply as is legal, and nothing outlives it.
"""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import trio

from enseada.auth.accounts import ADMIN, Accounts
from enseada.build import open_registry
from enseada.config import ARGON2_LANE_BYTES, Secret, Settings
from enseada.protocols.oci.manifest import OCI_IMAGE
from enseada.server import open_listeners, serve_http
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Conflict
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.testing.faults import Faults
from enseada.testing.images import HELLO, PushedImage, digest_of, make_image
from enseada.testing.inside import Inside, StoredManifest
from enseada.testing.interposed import Interposed, remember_transport
from enseada.testing.loopthread import LoopEnded, LoopThread
from enseada.testing.records import RecordedRequest, Records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

ADDRESS = "127.0.0.1:0"
"""Where it listens: a free port of this machine alone."""
PASSWORD = "a password for tests"
"""The account's, unless another is asked for."""
SETTLE_TIME = 1.0
"""Seconds in which the server may finish what it has already answered, before `RunningRegistry.requests` is read."""


class RunningRegistry:
    """A registry that runs. `registry` makes it, and so does the fixture ``enseada_registry``.

    For any thread. Whatever is asked of it here is answered past the faults, is not on record, and blocks for about a
    millisecond. When it has ended, only what is on record can still be read; the rest raises LoopEnded.
    """

    def __init__(self, thread: LoopThread[_Served], served: _Served, login: tuple[str, str]) -> None:
        self.url = served.address
        """``http://127.0.0.1:PORT``."""
        self.host = served.address.partition("://")[2]
        """``127.0.0.1:PORT``: the names of images begin with it."""
        self.username, self.password = login
        """Those of an account that may do everything."""
        self.faults = served.faults
        """What shall go wrong."""
        self._thread = thread
        self._inside = served.inside
        self._records = served.records

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    @property
    def auth(self) -> tuple[str, str]:
        """Name and password, as httpx and requests take them."""
        return self.username, self.password

    @property
    def docker_config(self) -> str:
        """The content of a ``config.json`` by which docker, crane, oras, regctl, skopeo and the like are logged in."""
        login = b64encode(f"{self.username}:{self.password}".encode()).decode()
        return json.dumps({"auths": {self.host: {"auth": login}}})

    # What was asked

    @property
    def requests(self) -> list[RecordedRequest]:
        """What was asked so far, in order, with what became of it; those that are being held have no status yet.

        Whoever has an answer finds its request here, whole.
        """
        with suppress(LoopEnded):
            self._thread.call(_settle)
        return self._records.all

    def report(self) -> str:
        """What was asked, and the faults, for people: pytest shows it beside a test that fails."""
        requests = [str(request) for request in self.requests] or ["nothing was asked"]
        return "\n".join([*requests, *(f"fault: {fault}" for fault in self.faults.armed)])

    # What is in it

    @property
    def repositories(self) -> list[str]:
        """The names under which there are images, in order. A name stays when all its images have gone."""
        return self._thread.call(self._inside.repositories)

    def tags(self, name: str) -> list[str]:
        """The tags of a name, in order; none where nothing is there."""
        return self._thread.call(self._inside.tags, name)

    def manifest(self, name: str, reference: str) -> StoredManifest:
        """What a tag or a digest names. Raises KeyError if there is none."""
        return self._thread.call(self._inside.manifest, name, reference)

    def blob(self, digest: str) -> bytes:
        """A blob's bytes, whichever name has it. Raises KeyError if there is none, ValueError for no digest."""
        return self._thread.call(self._inside.blob, digest)

    # Putting things in

    def push(self, name: str, tag: str = "latest", layers: Sequence[Mapping[str, bytes]] = (HELLO,)) -> PushedImage:
        """Put an image in, whose layers are archives of these files (path: content); it is replaced if it is there."""
        image = make_image(name, tag, layers)
        self._thread.call(self._inside.push, image)
        return image

    def push_blob(self, name: str, content: bytes) -> str:
        """Put a blob in; its digest."""
        self._thread.call(self._inside.push_blob, name, content)
        return digest_of(content)

    def push_manifest(self, name: str, content: bytes, tag: str | None = None, media_type: str = OCI_IMAGE) -> str:
        """Put a manifest in, whose blobs are there, and a tag on it; its digest. Raises ValueError if it is refused."""
        digest = digest_of(content)
        self._thread.call(self._inside.push_manifest, name, content, tag or digest, media_type)
        return digest

    def add_account(self, username: str, password: str = PASSWORD) -> tuple[str, str]:
        """Make an account that may do what anybody may, and no more; its name and password.

        Raises ValueError for a name that no account can have, or that one has.
        """
        try:
            self._thread.call(partial(self._inside.add_account, admin=False), username, password)
        except Conflict:
            raise ValueError(f"there is an account {username} already") from None
        return username, password


@contextmanager
def registry(
    *,
    anonymous: Literal["none", "pull", "push"] | None = None,
    username: str = ADMIN,
    password: str = PASSWORD,
    strict: bool = False,
    settings: Settings | None = None,
) -> Iterator[RunningRegistry]:
    """Run a registry while the block runs: fresh, empty, on a free port of 127.0.0.1, without TLS.

    ``anonymous``: what may be done without logging in; None: as ``settings`` say. ``username`` and ``password``: those
    of an account that may do everything. ``strict``: raise UnmetFaults at the end if there are any. ``settings``: what
    else an installation chooses; where it listens and keeps its data, its admin's password and the cost of passwords
    are not its choice here.

    Raises ValueError for an account that cannot be, and at the end whatever the registry itself failed with.
    """
    chosen = settings or Settings()
    chosen = replace(
        chosen,
        anonymous=chosen.anonymous if anonymous is None else anonymous,
        admin_password=Secret(password) if username == ADMIN else None,
        argon2_time=1,
        argon2_memory=ARGON2_LANE_BYTES,
        argon2_lanes=1,
    )
    thread = LoopThread(_serving(chosen, username, password), "enseada-registry")
    try:
        served = thread.start()
        yield RunningRegistry(thread, served, (username, password))
    finally:
        thread.stop()
    if served.defects:
        raise ExceptionGroup("the registry failed by itself, which is a defect of it", served.defects)
    if strict:
        served.faults.check()


@dataclass(frozen=True, slots=True)
class _Served:
    """What is in the registry's thread, as far as others may touch it."""

    address: str
    faults: Faults
    records: Records
    inside: Inside
    """For calls into the thread."""
    defects: list[Exception]
    """For when the thread has ended."""


@asynccontextmanager
async def _serving(settings: Settings, username: str, password: str) -> AsyncIterator[_Served]:
    async with aclosing(MemoryDocuments()) as documents, aclosing(MemoryBlobs()) as store:
        opened = (await open_registry(settings, documents, store)).registry
        inside = Inside(opened, documents, store, Accounts(documents, settings), username, password)
        if username != ADMIN:
            await inside.add_account(username, password, admin=True)
        faults, records = Faults(), Records()
        interposed = Interposed(opened, faults, records)
        listeners = await open_listeners([ADDRESS])
        async with opened.running(), trio.open_nursery() as nursery:
            serve = partial(
                serve_http,
                interposed,
                listeners,
                limits=settings.limits,
                grace=0,  # what a test has not waited for, it does not want
                on_exchange=records.end,
                interpose=remember_transport,
            )
            await nursery.start(serve)
            yield _Served(listeners[0].address, faults, records, inside, interposed.defects)
            nursery.cancel_scope.cancel()


async def _settle() -> None:
    """Wait until all have gone as far as they can: what is left waits for a client, for time, or for a release."""
    # It imports pytest, where that is installed: under pytest that costs nothing, elsewhere only who needs it pays.
    from trio.testing import wait_all_tasks_blocked

    with trio.move_on_after(SETTLE_TIME):
        await wait_all_tasks_blocked()
